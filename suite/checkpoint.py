"""Checkpoints: nested dicts and lists of tensors and numbers in one safetensors file; nothing is ever unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from ..baselines.interface import TextToImage, Tokenizes
from ..datasets.tokenizers import tokenizer_from_json
from ..datasets.user_files import short
from ..errors import UserError
from ..files import digest_of, read_json, whole_file, write_json

State = dict[str, Any]


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested state to `path`, whole or not at all: tensors as they are, the rest as JSON in the header."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_pack(state, "", tensors), allow_nan=True)
    with whole_file(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"structure": structure})


def load_state(path: Path) -> State:
    """Return the state that `save_state` wrote; raise UserError naming the file when it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            structure = json.loads((file.metadata() or {})["structure"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        state: State = _unpack(structure, tensors)
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({error}); remove it to start again") from error
    return state


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # clone: safetensors refuses tensors that share memory, and averages may share theirs.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(entry, f"{name}.{key}", tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_pack(entry, f"{name}.{number}", tensors) for number, entry in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"{name}: a state holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")


def _unpack(packed: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    [(kind, content)] = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_unpack(entry, tensors) for entry in content]
    return content


def save_weights(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Write the weights of all networks to `path` as plain safetensors, keys `network.parameter`."""
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
    with whole_file(path) as temporary:
        safetensors.torch.save_file(tensors, temporary)


def load_weights(path: Path, networks: Mapping[str, nn.Module]) -> None:
    """Load what `save_weights` wrote; raise UserError naming the file when it does not fit the networks."""
    try:
        tensors = safetensors.torch.load_file(path)
        for name, network in networks.items():
            own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
            network.load_state_dict(own)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; remove the folder and train anew") from error
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: not the weights of this model ({reason}); remove the folder and train anew"
        ) from error


def save_tokenizers(path: Path, model: TextToImage) -> None:
    """Write the model's tokenizers, if it has any, to `path` as JSON with their digest; what is there stays."""
    if isinstance(model, Tokenizes) and not path.exists():
        documents = {name: tokenizer.to_json() for name, tokenizer in model.tokenizers.items()}
        write_json(path, {"digest": _signature(documents), "tokenizers": documents})


def load_tokenizers(path: Path, model: TextToImage) -> None:
    """Give the model, if it has any, the tokenizers in `path`; raise UserError when they are altered or another's."""
    if not isinstance(model, Tokenizes):
        return
    kept = read_json(path)
    documents = kept.get("tokenizers") if isinstance(kept, dict) else None
    if not isinstance(documents, dict):
        raise UserError(f"{path}: expected the tokenizers of a run, as `train` writes them")
    saved = {name: tokenizer_from_json(entry, f"{path}: {short(repr(name))}") for name, entry in documents.items()}
    if kept.get("digest") != _signature(documents):
        raise UserError(f"{path}: altered since the training began; put the original back, or train again")
    for name, own in model.tokenizers.items():
        if documents.get(name) != own.to_json():
            raise UserError(f"{path}: its {name!r} is not this model's tokenizer; train again")
    model.tokenizers.clear()
    model.tokenizers.update(saved)


def _signature(documents: Mapping[str, Any]) -> str:
    """Return a digest that exists for whatever a file may hold: NaN and half characters are escaped."""
    return digest_of(json.dumps(documents, sort_keys=True))
