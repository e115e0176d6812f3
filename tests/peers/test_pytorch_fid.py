"""Our Inception-v3 of 2015 against pytorch-fid's own network on the same random weights (`make peers`)."""

import pytest
import torch

from t2ibench.baselines.inception_network import SIDE

pytest.importorskip("pytorch_fid")
import torchvision_operators  # noqa: F401  (before whatever imports torchvision)
from pytorch_fid import inception as theirs
from random_inception import lively_inception

pytestmark = pytest.mark.peers


@torch.no_grad()
def test_inception_sees_what_pytorch_fid_sees(monkeypatch):
    ours = lively_inception()
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: ours.state_dict())
    blocks = theirs.InceptionV3([2, 3], resize_input=False, normalize_input=False).eval()
    pixels = torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).float()
    regions, pooled = blocks((pixels - 128) / 128)
    ours.fold()
    seen = ours(pixels)
    # Block 2 ends with Mixed_6e.
    torch.testing.assert_close(seen.regions, regions, rtol=1e-5, atol=1e-5 * float(regions.abs().max()))
    torch.testing.assert_close(seen.pooled, pooled[:, :, 0, 0], rtol=1e-5, atol=1e-5 * float(pooled.abs().max()))
    assert pooled.std(dim=0).mean() > 1e-3 * pooled.abs().max()
