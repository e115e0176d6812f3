"""Published weights of frozen networks, read without trust."""

import pickle
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


def fill(network: nn.Module, path: Path) -> None:
    """Load a .safetensors or PyTorch state-dict file into `network` and freeze it; no code in it is run.

    Tensors that the network does not have are ignored. Raises UserError when the file cannot be read, or a
    tensor of the network is missing or has another shape.
    """
    weights = _read(path)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    expected = [name for name in shapes if not name.endswith("num_batches_tracked")]
    wrong = [name for name in expected if name not in weights or weights[name].shape != shapes[name]]
    if wrong:
        raise UserError(
            f"{path}: weights of another network, {len(wrong)} of {len(expected)} tensors are missing "
            f"or of another shape, first {wrong[0]!r}; fetch the file anew"
        )
    network.load_state_dict({name: weights[name] for name in expected}, strict=False)
    network.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: not readable as weights ({type(error).__name__}); fetch it anew") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path}: expected named tensors, got a {type(weights).__name__}; fetch it anew")
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, torch.Tensor)}
