"""Published weights of frozen networks, read without trust."""

import pickle
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from ..errors import UserError

UNREADABLE = (
    OSError, ValueError, RuntimeError, EOFError, KeyError, AttributeError, TypeError, IndexError,
    pickle.UnpicklingError, safetensors.SafetensorError,
)  # fmt: skip
"""What the readers raise on damaged or foreign files."""


def fill(
    network: nn.Module, path: Path, *, published_name: Callable[[str], str] = str, beside: Collection[str] | None = None
) -> None:
    """Load a .safetensors or PyTorch state-dict file into `network` and freeze it; no code in it is run.

    `published_name` gives what a tensor of the network is called in the file. Tensors that the network does not
    have are ignored, or, where `beside` names those that may be there, refused. Raises UserError when the file cannot
    be read, or a tensor of the network is missing, has another shape or is not finite.
    """
    weights = _read(path)
    own = network.state_dict()
    names = {name: published_name(name) for name in own if not name.endswith("num_batches_tracked")}
    faults = {names[name]: _fault(weights.get(names[name]), own[name]) for name in names}
    if wrong := [f"{name!r} {fault}" for name, fault in faults.items() if fault]:
        raise UserError(
            f"{path}: weights of another network, {len(wrong)} of {len(names)} tensors are missing, "
            f"of another shape or not finite, first {wrong[0]}; fetch the file that fits"
        )
    if beside is not None:
        known = {*beside, *map(published_name, own)}
        if unknown := [name for name in weights if name not in known]:
            raise UserError(
                f"{path}: weights of another network, {len(unknown)} tensors too many, first {unknown[0]!r}; "
                f"fetch the file that fits"
            )
    network.load_state_dict({name: weights[names[name]] for name in names}, strict=False)
    network.eval().requires_grad_(False)


def _fault(tensor: torch.Tensor | None, own: torch.Tensor) -> str:
    """Return why a tensor of a file cannot stand for the network's own, or nothing."""
    if tensor is None:
        return "(missing)"
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return "(no plain tensor)"
    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        return f"({_described(tensor)}, expected {_described(own)})"
    return "" if tensor.isfinite().all() else "(not finite)"


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read(path: Path) -> dict[str, torch.Tensor]:
    if _holds_code(path):
        raise UserError(
            f"{path}: a TorchScript archive, which holds code; if you trust it, keep its weights alone with Python: "
            "torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW)"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: not readable as weights ({type(error).__name__}); fetch it anew") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path}: expected named tensors, got a {type(weights).__name__}; fetch it anew")
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}


def _holds_code(path: Path) -> bool:
    """Return whether a file is what `torch.jit.save` writes; whatever else is wrong with it shows on reading."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False
