"""Names for the compiled operators of torchvision, so that its Python part imports beside a CPU build of PyTorch.

torchvision is published for CUDA only; its library of operators does not load here, and then `import torchvision`
fails, and that of all that import it. Importing this first gives the operators their names. None can be called.
"""

import torch

OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward", "ps_roi_align",
    "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip

library = torch.library.Library("torchvision", "DEF")
for operator in OPERATORS:
    library.define(f"{operator}(Tensor input) -> Tensor")
