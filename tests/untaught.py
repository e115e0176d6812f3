"""What tests of judges that others trained have in common."""

import torch
import torch.nn.functional as F

from t2ibench.datasets.captioned import Batch
from t2ibench.eval.judges import Training


class NoData:
    """A training that a pretrained judge has no need of."""

    name = split = digest = ""
    image_size = 1
    class_names = ()

    def __len__(self):
        return 0

    def batch(self, indices, rng=None):
        return Batch(images=torch.zeros(0, 3, 1, 1), captions=[], ids=[])

    def captions(self, index):
        return []

    def scene(self, index):
        return None


TRAINING = Training(train=NoData(), held_out=NoData())


def pictures(n, side=48, seed=0):
    """Smooth colour fields, each another, as uint8 [N, 3, side, side]."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)
