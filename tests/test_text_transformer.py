"""CLIP's parts: causality, the end token, and the contrastive loss by hand."""

import math

import pytest
import torch

from t2ibench.baselines.text_transformer import MAX_LOGIT_SCALE, TextTransformer, contrastive_loss


def transformer() -> TextTransformer:
    torch.manual_seed(0)
    network = TextTransformer(vocabulary=20, context=8, width=16, layers=2, heads=2, embed_dim=6, end=2)
    return network.double().eval()


def same(groups: list[int]) -> torch.Tensor:
    return torch.tensor(groups)[:, None] == torch.tensor(groups)[None]


def test_what_follows_the_end_has_no_influence() -> None:
    network = transformer()
    a = torch.tensor([[5, 6, 2, 0, 0, 0]])
    b = torch.tensor([[5, 6, 2, 9, 2, 7]])
    torch.testing.assert_close(network(a), network(b))
    assert not torch.allclose(network(a), network(torch.tensor([[6, 5, 2, 0, 0, 0]])))


def test_each_block_is_causal() -> None:
    network = transformer()
    block = network.resblocks[0]
    mask = torch.ones(6, 6, dtype=torch.bool).triu(1)
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    before = block(x, mask)
    for changed in range(6):
        y = x.clone()
        y[:, changed] += 1
        after = block(y, mask)
        torch.testing.assert_close(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed:], before[:, changed:])


def test_loss_by_hand() -> None:
    image = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    half = math.sqrt(0.5)

    def cross(right: float, wrong: float) -> float:
        return math.log(1 + math.exp(3 * (wrong - right)))

    rows = (cross(1, half) + cross(half, 0)) / 2
    columns = (cross(1, 0) + cross(half, half)) / 2
    scale = torch.tensor(math.log(3.0))
    assert contrastive_loss(image, text, scale, same([0, 1])).item() == pytest.approx((rows + columns) / 2)


def test_equal_captions_are_not_negatives() -> None:
    image = torch.randn(3, 4)
    text = torch.randn(3, 4)
    scale = torch.tensor(1.0)
    assert contrastive_loss(image, text, scale, same([7, 7, 7])).item() == pytest.approx(0)
    kept = contrastive_loss(image[[0, 2]], text[[0, 2]], scale, same([0, 1]))
    doubled = contrastive_loss(image[[0, 2, 0, 2]], text[[0, 2, 0, 2]], scale, same([0, 1, 0, 1]))
    # Each row still meets its own caption and the two copies of the other.
    assert doubled > kept


def test_temperature_is_clipped() -> None:
    image, text, matching = torch.randn(4, 8), torch.randn(4, 8), same([0, 1, 2, 3])
    hot = contrastive_loss(image, text, torch.tensor(50.0), matching)
    assert hot.item() == pytest.approx(contrastive_loss(image, text, torch.tensor(MAX_LOGIT_SCALE), matching).item())
