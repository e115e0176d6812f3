"""Finite scalar quantisation: bounds, rounding, indices, gradients."""

import math

import pytest
import torch

from t2ibench.dalle.fsq import FSQ, FSQConfig, FSQStage, Rounding
from t2ibench.dalle.resnet_codec import CodecConfig

LEVELS = [(8, 6, 5), (7, 5, 5, 5, 5), (2, 3), (4,), (8, 5, 5, 5)]
CONFIG = FSQConfig(levels=(4, 3), codec=CodecConfig(width=8, first_decoder_width=8, blocks=1, stride=4))


@pytest.mark.parametrize("levels", LEVELS)
def test_every_index_comes_back_from_its_code(levels: tuple[int, ...]) -> None:
    rounding = Rounding(levels)
    indices = torch.arange(math.prod(levels))
    codes = rounding.codes(indices)
    assert codes.shape == (len(indices), len(levels)) and codes.dtype == torch.float32
    assert codes.min() == -1 and codes.max() <= 1 and len(codes.unique(dim=0)) == len(indices)
    assert torch.equal(rounding.indices(codes), indices)


def test_indices_are_in_mixed_radix_with_the_first_number_the_fastest() -> None:
    rounding = Rounding((8, 6, 5))
    codes = rounding.codes(torch.tensor([[[0, 1], [8, 48]]]))
    assert codes.shape == (1, 3, 2, 2)
    expected = torch.tensor([[-1.0, -1.0, -1.0], [-0.75, -1.0, -1.0], [-1.0, -2 / 3, -1.0], [-1.0, -1.0, -0.5]])
    torch.testing.assert_close(codes.flatten(2)[0].T, expected)


@pytest.mark.parametrize("levels", LEVELS)
def test_rounding_reaches_every_level_and_no_other(levels: tuple[int, ...]) -> None:
    """Also the outermost ones, and of an even number of levels the one more below zero."""
    rounding = Rounding(levels)
    numbers = torch.linspace(-9, 9, 20_001)[:, None].expand(-1, len(levels))
    bounded = rounding.bound(numbers)
    for place, level in enumerate(levels):
        rounded = bounded[:, place].round()
        assert rounded.unique().tolist() == list(range(-(level // 2), (level - 1) // 2 + 1))
        assert (rounded.diff() >= 0).all()
    quantised = rounding.quantise(numbers)
    assert torch.equal(rounding.codes(rounding.indices(quantised)), quantised)


def test_bound_by_hand() -> None:
    """Zero stays where it is: that is what the shift is for."""
    rounding = Rounding((8, 5))
    zero = rounding.bound(torch.zeros(1, 2))
    torch.testing.assert_close(zero, torch.zeros(1, 2), atol=1e-6, rtol=0)
    half = 7 * 1.001 / 2
    bounded = rounding.bound(torch.tensor([[0.4, 0.4]]))
    expected = [math.tanh(0.4 + math.atanh(0.5 / half)) * half - 0.5, math.tanh(0.4) * 4 * 1.001 / 2]
    assert bounded[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_gradients_go_straight_through_the_rounding() -> None:
    rounding = Rounding((8, 5))
    numbers = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    (through,) = torch.autograd.grad((rounding.quantise(numbers) * weights).sum(), numbers)
    scale = torch.tensor([4.0, 2.0]).view(1, 2, 1, 1)
    (smooth,) = torch.autograd.grad((rounding.bound(numbers) / scale * weights).sum(), numbers)
    assert through.abs().min() > 0
    torch.testing.assert_close(through, smooth)


def test_half_precision_is_rounded_in_single() -> None:
    rounding = Rounding((8, 8, 8, 6, 5))
    numbers = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        quantised = rounding.quantise(numbers)
    assert quantised.dtype == torch.float32
    assert torch.equal(rounding.codes(rounding.indices(quantised)), quantised)


def test_the_loss_is_the_mean_squared_error_of_hard_codes() -> None:
    torch.manual_seed(0)
    stage = FSQStage(FSQ(CONFIG, 32), share=0.3)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    losses = stage.losses(images)
    with torch.no_grad():
        painted = stage.fsq.images_of(stage.fsq.codes_of(images))
    expected = (painted - (images.float() / 127.5 - 1)).square().mean()
    assert float(losses["loss"].detach()) == pytest.approx(float(expected), rel=1e-5)
    codes = stage.fsq.codes_of(images)
    assert float(losses["codes_used"]) == pytest.approx(len(codes.unique()) / 12)


def test_number_of_codes_is_the_product() -> None:
    assert [FSQConfig(levels=levels).num_codes for levels in LEVELS] == [240, 4375, 6, 4, 1000]
    assert FSQ(CONFIG, 32).num_codes == 12
