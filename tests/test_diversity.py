"""Diversity within a caption: a closed form, its limits, and the warning of a collapse."""

import pytest
import torch

from t2ibench.eval.diversity import Diversity, collapse_note
from t2ibench.eval.frechet import FeatureMoments
from t2ibench.eval.prompts import REPEATED, Prompt, repeated_prompts


def real(n: int = 400, width: int = 6) -> FeatureMoments:
    return FeatureMoments.from_features(3 * torch.randn(n, width, generator=torch.Generator().manual_seed(1)))


def test_value_and_error_by_hand() -> None:
    moments = FeatureMoments.from_features(torch.tensor([[0.0, 0.0], [4.0, 2.0]]))
    metric = Diversity(moments)  # real trace: (4^2 + 2^2) / 2 = 10
    metric.update(torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 1.0], [1.0, 3.0]]]))
    metric.update(torch.tensor([[[0.0, 0.0], [0.0, 4.0]]]))
    shares = torch.tensor([0.2, 0.2, 0.8])
    value = 0.4**0.5
    assert metric.compute().value.item() == pytest.approx(value)
    assert metric.compute().stderr.item() == pytest.approx((shares.std() / 3**0.5 / (2 * value)).item())
    assert metric.compute().n == 6


def test_one_image_a_caption_is_zero_and_heedless_images_are_as_diverse_as_real_ones() -> None:
    metric = Diversity(real())
    metric.update(torch.randn(20, 1, 6).expand(20, 8, 6))
    assert metric.compute().value == 0
    heedless = Diversity(real())
    heedless.update(3 * torch.randn(300, 8, 6))
    assert heedless.compute().value.item() == pytest.approx(1, abs=0.06)


def test_shift_and_scale_of_the_features_change_nothing() -> None:
    features, rows = torch.randn(30, 8, 6), torch.randn(200, 6)
    plain, moved = Diversity(FeatureMoments.from_features(rows)), Diversity(FeatureMoments.from_features(5 * rows + 2))
    plain.update(features)
    moved.update(5 * features - 7)
    assert plain.compute().value.item() == pytest.approx(moved.compute().value.item(), rel=1e-5)


def test_a_collapse_is_warned_of_below_a_tenth_only() -> None:
    assert collapse_note("diversity@scenes", 0.1) is None
    note = collapse_note("diversity@scenes", 0.034)
    assert note is not None and note.startswith("mode collapse") and "3.4%" in note and "diversity@scenes" in note


def test_prompts_come_again_with_noise_of_their_own() -> None:
    prompts = [Prompt(f"caption {number % 40}", f"image {number}", 0, number) for number in range(60)]
    again = repeated_prompts(prompts)
    captions, times = REPEATED
    assert len(again) == captions * times and len({prompt.seed for prompt in again}) == len(again)
    assert [prompt.caption for prompt in again[::times]] == [f"caption {number}" for number in range(captions)]
    assert len(repeated_prompts(prompts[:5])) == 5 * times
