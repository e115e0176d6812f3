"""What tests of judges that others trained have in common."""

import torch
import torch.nn.functional as F

from t2ibench.eval.judges import Training


def never():
    """Stand for data that a pretrained judge has no need of."""
    raise AssertionError("a pretrained judge asked for data")


TRAINING = Training(train=never, held_out=never)


def pictures(n, side=48, seed=0):
    """Smooth colour fields, each another, as uint8 [N, 3, side, side]."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)
