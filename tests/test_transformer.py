"""DALL-E's transformer: its size as published, its patterns as drawn there, and that nothing sees what comes after."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from t2ibench.dalle.fsq import FSQ, FSQConfig, Rounding
from t2ibench.dalle.model import PRESETS, DallE
from t2ibench.dalle.transformer import Transformer, TransformerConfig, attend, attention_mask, pattern_of
from t2ibench.dalle.weight_decay import decay_linear_layers
from t2ibench.errors import UserError
from t2ibench.suite.spec import resolve_config

TEXT, SIDE, CODES = 5, 4, 7


def small(
    attention: str = "sparse", grids: tuple[int, ...] = (SIDE,), radices: tuple[int, ...] | None = None
) -> Transformer:
    config = TransformerConfig(vocabulary=11, text_length=TEXT, width=16, layers=5, heads=2, attention=attention,
                               kernel=3, share_digits=True)  # fmt: skip
    torch.manual_seed(0)
    codes = CODES if radices is None else math.prod(radices)
    transformer = Transformer(config, num_codes=codes, grids=grids, radices=radices)
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return transformer.eval()


def captioned(rows: int = 3, grids: tuple[int, ...] = (SIDE,)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(1, 11, (rows, TEXT), generator=generator)
    text[0, 3:] = 0
    return text, torch.randint(0, CODES, (rows, sum(side * side for side in grids)), generator=generator)


def test_the_published_size_has_12_billion_parameters_and_its_pattern() -> None:
    with torch.device("meta"):
        transformer = Transformer(TransformerConfig(), num_codes=8192, grids=(32,))
    assert 12.0e9 < sum(parameter.numel() for parameter in transformer.parameters()) < 12.3e9
    patterns = transformer.patterns
    assert patterns[:6] == ["row", "column", "row", "row", "row", "column"] and len(patterns) == 64
    assert [layer for layer in range(1, 64) if patterns[layer - 1] == "column"] == list(range(2, 63, 4))
    assert patterns[63] == "convolution" and patterns.count("convolution") == 1


def test_codes_that_share_a_digit_share_a_part_of_their_logits() -> None:
    transformer = small("full", radices=(3, 4))
    assert transformer.digit_head is not None
    states = torch.randn(2, 16)
    of_digits = transformer.digit_head(states)
    for code, logits in enumerate(transformer.logits(states, transformer.code_weights()).T):
        first, second = of_digits[:, code % 3], of_digits[:, 3 + code // 3]
        torch.testing.assert_close(logits, transformer.image_head(states)[:, code] + first + second)
    with pytest.raises(ValueError, match="make 12 codes, expected 13"):
        Transformer(transformer.config, num_codes=13, grids=(SIDE,), radices=(3, 4))


def test_the_digits_are_those_of_the_tokenizer() -> None:
    tokenizer = FSQ(FSQConfig(levels=(3, 4)), 32)
    numbers = Rounding((3, 4)).codes(torch.arange(12).view(1, 12))[0]
    assert tokenizer.radices == tuple(len(row.unique()) for row in numbers)
    assert torch.equal(numbers[0], numbers[0, torch.arange(12) % 3])
    for preset, digits in (("tiny", 8 + 5 + 5 + 5), ("tiny-dvae", None), ("tiny-vqvae2", None)):
        head = DallE(PRESETS[preset]).transformer.digit_head
        assert (head.out_features if head else None) == digits
    unshared = resolve_config(PRESETS["tiny"], {"transformer.share_digits": False})
    assert DallE(unshared).transformer.digit_head is None


@pytest.mark.parametrize("pattern", ["full", "row", "column", "convolution"])
def test_masks_are_those_of_the_paper_entry_by_entry(pattern: str) -> None:
    mask = attention_mask(pattern, TEXT, (SIDE,), kernel=3)
    assert mask.shape == (TEXT + SIDE**2, TEXT + SIDE**2)
    for query, key in itertools.product(range(len(mask)), repeat=2):
        at, other = query - TEXT - 1, key - TEXT - 1
        if key > query:
            seen = False
        elif at < 0 or other < 0 or pattern == "full":
            seen = True
        elif pattern == "row":
            seen = at - other <= SIDE
        elif pattern == "column":
            seen = at % SIDE == other % SIDE
        else:
            seen = at // SIDE - other // SIDE <= 1 and abs(at % SIDE - other % SIDE) <= 1
        assert mask[query, key] == seen, (query, key)


def test_a_row_is_the_33_tokens_of_the_published_grid() -> None:
    mask = attention_mask("row", 256, (32,), kernel=11)
    assert mask.shape == (1280, 1280)
    assert mask[1279, 257:].sum() == 33 and mask[1279, :257].all()


@pytest.mark.parametrize(("attention", "grids"), [("sparse", (SIDE,)), ("full", (SIDE,)), ("full", (2, SIDE))])
def test_what_comes_later_changes_nothing_before(attention: str, grids: tuple[int, ...]) -> None:
    transformer = small(attention, grids)
    text, codes = captioned(grids=grids)
    told, drawn = transformer(text, codes)
    for at in range(codes.shape[1]):
        changed = codes.clone()
        changed[:, at] = (changed[:, at] + 1) % CODES
        words, images = transformer(text, changed)
        assert torch.equal(words, told) and torch.equal(images[:, : at + 1], drawn[:, : at + 1])
        if at + 1 < codes.shape[1]:
            assert not torch.equal(images[:, at + 1 :], drawn[:, at + 1 :])
    for at in range(TEXT):
        changed = text.clone()
        changed[:, at] = changed[:, at] % 10 + 1
        words, images = transformer(changed, codes)
        assert torch.equal(words[:, :at], told[:, :at])
        assert (images != drawn).any(2).all(), "every code sees the whole caption"


def test_padding_has_an_embedding_of_its_own_at_each_place() -> None:
    transformer = small()
    text, codes = captioned()
    _, drawn = transformer(text, codes)
    with torch.no_grad():
        transformer.padding_embedding.weight[3] += 1
    _, changed = transformer(text, codes)
    assert not torch.allclose(changed[0], drawn[0]) and torch.equal(changed[1:], drawn[1:])
    with torch.no_grad():
        transformer.piece_embedding.weight[0] += 1
    assert torch.equal(transformer(text, codes)[1], changed), "piece 0 is never looked up"


def test_losses_are_the_cross_entropies_by_hand_and_padding_is_not_asked_for() -> None:
    transformer = small()
    text, codes = captioned()
    losses = transformer.losses(text, codes)
    told, drawn = transformer(text, codes)
    pieces = [-F.log_softmax(told[row, at - 1], 0)[text[row, at]]
              for row in range(3) for at in range(1, TEXT) if text[row, at] != 0]  # fmt: skip
    images = [-F.log_softmax(drawn[row, at], 0)[codes[row, at]] for row in range(3) for at in range(SIDE**2)]
    assert len(pieces) == 2 + 4 + 4
    torch.testing.assert_close(losses.text, torch.stack(pieces).mean())
    torch.testing.assert_close(losses.image, torch.stack(images).mean())
    one = torch.zeros_like(text)
    one[:, 0] = 1
    assert transformer.losses(one, codes).text == 0


def test_levels_of_codes_are_told_apart() -> None:
    transformer = small("full", (2, SIDE))
    same = torch.zeros(1, 2 * 2 + SIDE * SIDE, dtype=torch.long)
    embedded = transformer.embed_codes(same)[0]
    assert len({tuple(row.tolist()) for row in embedded}) == len(embedded)
    torch.testing.assert_close(transformer.embed_codes(same[:, 6:9], 6)[0], embedded[6:9])


def test_weight_decay_is_of_matrices_only() -> None:
    transformer = small()
    decaying, others = decay_linear_layers(transformer, 0.1)
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    kept = {names[id(parameter)] for parameter in others["params"]}
    assert len(kept) + len(decaying["params"]) == len(names)
    assert all("embedding" in name or "norm" in name or "bias" in name or name == "start_of_image" for name in kept)
    assert not any("embedding" in names[id(parameter)] for parameter in decaying["params"])


@pytest.mark.parametrize(("settings", "named"), [
    ({"width": 10, "heads": 3}, "heads"), ({"text_length": 1}, "text_length"), ({"kernel": 4}, "kernel"),
    ({"layers": 0}, "layers"),
])  # fmt: skip
def test_sizes_that_make_no_network_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        TransformerConfig(**settings)


def test_sparse_attention_needs_one_grid() -> None:
    with pytest.raises(UserError, match="sparse"):
        small("sparse", (2, 4))


def test_the_pattern_of_full_attention_is_full() -> None:
    assert {pattern_of(layer, 6, "full") for layer in range(1, 7)} == {"full"}


@pytest.mark.parametrize("masked", [False, True])
def test_in_bfloat16_a_cpu_attends_in_float32(masked: bool) -> None:
    """What is read is the exact reading, rounded once; also where the loop casts to bfloat16."""
    generator = torch.Generator().manual_seed(0)
    read = [torch.randn(2, 2, 7, 8, generator=generator).bfloat16() for _ in range(3)]
    mask = attention_mask("row", 3, (2,), kernel=3) if masked else None
    exact = attend(*(each.double() for each in read), mask)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert torch.equal(attend(*read, mask), exact.float().bfloat16())
