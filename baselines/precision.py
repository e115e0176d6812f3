"""Parts of a step that stay in float32 whatever its precision."""

import contextlib

import torch


def full_precision(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of `x`; whoever enters it casts what comes in."""
    # Autocast knows no meta device.
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
