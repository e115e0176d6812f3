"""Which weights of a network AdamW decays: two groups of parameters, as the published recipes differ."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_linear_layers(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay the matrices of linear layers; not embeddings, gains and biases (Ramesh et al. 2021, appendix B.2)."""
    matrices = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    return _groups(network, weight_decay, matrices)


def decay_all_but_vectors(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels, embeddings among them; not gains, biases and the temperature (as open_clip does)."""
    return _groups(network, weight_decay, (id(parameter) for parameter in network.parameters() if parameter.ndim >= 2))


def _groups(network: nn.Module, weight_decay: float, decaying: Iterable[int]) -> list[dict[str, Any]]:
    chosen = set(decaying)
    return [{"params": [parameter for parameter in network.parameters() if (id(parameter) in chosen) == decays],
             "weight_decay": weight_decay if decays else 0.0} for decays in (True, False)]  # fmt: skip
