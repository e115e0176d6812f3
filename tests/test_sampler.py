"""Sampling with a cache: the same numbers as without it, whatever the mask, the guidance and the image prompt."""

import math

import numpy as np
import pytest
import torch

from t2ibench.dalle.cuda_graphs import GraphedSampler
from t2ibench.dalle.sampler import Cache, Inputs, SamplingConfig, draw, pick, sample_codes
from t2ibench.dalle.transformer import Transformer
from t2ibench.errors import UserError
from t2ibench.tests.test_transformer import CODES, SIDE, TEXT, captioned, small

LENGTH = SIDE**2
NULL = torch.tensor([1, 0, 0, 0, 0])


def uniforms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def by_hand(
    transformer: Transformer, text: torch.Tensor, chances: torch.Tensor, guidance: float, forced: torch.Tensor
) -> torch.Tensor:
    """Sample without a cache: the whole stream anew for every code, one candidate at a time."""
    codes = torch.zeros_like(forced)
    for at in range(LENGTH):
        with_caption = transformer(text, codes)[1][:, at]
        without = transformer(NULL.expand_as(text), codes)[1][:, at]
        logits = without + guidance * (with_caption - without)
        reached = logits.double().softmax(1).cumsum(1)
        drawn = (reached < chances[:, at, None]).sum(1)
        codes[:, at] = torch.where(forced[:, at] < 0, drawn, forced[:, at])
    return codes


@pytest.mark.parametrize("attention", ["sparse", "full"])
@pytest.mark.parametrize("leading", [0, 1, 6, LENGTH - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cached_logits_are_the_uncached(attention: str, leading: int, dtype: torch.dtype) -> None:
    transformer = small(attention).to(dtype)
    text, codes = captioned()
    with torch.inference_mode():
        cache = Cache(transformer, prompts=3, candidates=2, shared=leading)
        # The second candidate of each caption goes on with other codes.
        both = torch.stack([codes, (codes + 1) % CODES], 1)
        both[:, :, :leading] = codes[:, None, :leading]
        states = [cache.read(text, codes[:, :leading]).expand(-1, 2, -1)]
        states += [cache.step(both[:, :, at], at) for at in range(leading, LENGTH - 1)]
        cached = transformer.logits(transformer.norm(torch.stack(states, 2)), transformer.code_weights())
        for candidate in range(2):
            whole = transformer(text, both[:, candidate])[1][:, leading:]
            if dtype == torch.float32:
                torch.testing.assert_close(cached[:, candidate], whole, atol=2e-5, rtol=1e-4)
            else:
                assert (cached[:, candidate] - whole).std() < 0.03 * whole.std()


@pytest.mark.parametrize(("attention", "radices"), [("sparse", None), ("full", None), ("full", (3, 4))])
@pytest.mark.parametrize("guidance", [1.0, 0.0, 2.5])
@pytest.mark.parametrize("rows", [0, 2])
def test_samples_are_those_of_the_whole_stream_read_anew(
    attention: str, radices: tuple[int, ...] | None, guidance: float, rows: int
) -> None:
    """With image prompts too: leading rows, and a code in the middle."""
    transformer = small(attention, radices=radices)
    text, given = captioned()
    forced = torch.full_like(given, -1)
    forced[:, : rows * SIDE] = given[:, : rows * SIDE]
    forced[1:, 11] = given[1:, 11]
    chances = uniforms(3, 4, LENGTH)
    before = text.clone(), forced.clone()
    drawn = sample_codes(transformer, text, chances, SamplingConfig(guidance=guidance), null=NULL, forced=forced)
    assert drawn.shape == (3, 4, LENGTH)
    for candidate in range(4):
        expected = by_hand(transformer, text, chances[:, candidate], guidance, forced)
        assert torch.equal(drawn[:, candidate], expected)
    assert torch.equal(text, before[0]) and torch.equal(forced, before[1]), "inputs are never changed"


def test_two_grids_are_drawn_one_after_the_other() -> None:
    transformer = small("full", (2, SIDE))
    text, codes = captioned(grids=(2, SIDE))
    chances = uniforms(3, 2, codes.shape[1])
    drawn = sample_codes(transformer, text, chances, SamplingConfig(guidance=2.0), null=NULL)
    for candidate in range(2):
        own = drawn[:, candidate]
        logits = transformer(text, own)[1]
        free = transformer(NULL.expand_as(text), own)[1]
        reached = (free + 2 * (logits - free)).double().softmax(2).cumsum(2)
        assert torch.equal((reached < chances[:, candidate, :, None]).sum(2), own)


def test_guidance_of_none_is_the_model_without_captions() -> None:
    transformer = small()
    text, _ = captioned()
    chances = uniforms(3, 2, LENGTH)
    free = sample_codes(transformer, NULL.repeat(3, 1), chances, SamplingConfig(), null=NULL)
    unguided = sample_codes(transformer, text, chances, SamplingConfig(guidance=0), null=NULL)
    assert torch.equal(free, unguided)
    assert not torch.equal(sample_codes(transformer, text, chances, SamplingConfig(), null=NULL), free)


def test_candidates_are_their_own_whatever_comes_with_them() -> None:
    transformer = small()
    text, _ = captioned()
    chances = uniforms(1, 9, LENGTH)
    together = sample_codes(transformer, text[:1], chances, SamplingConfig(), null=NULL)
    for split in ([1] * 9, [4, 5], [2, 3, 4]):
        parts = [sample_codes(transformer, text[:1], some, SamplingConfig(), null=NULL)
                 for some in chances.split(split, 1)]  # fmt: skip
        assert torch.equal(torch.cat(parts, 1), together)


def test_everything_forced_is_returned() -> None:
    text, codes = captioned()
    drawn = sample_codes(small(), text, uniforms(3, 2, LENGTH), SamplingConfig(), null=NULL, forced=codes)
    assert torch.equal(drawn, codes[:, None].expand(-1, 2, -1))


def test_frequencies_are_the_probabilities() -> None:
    logits = torch.randn(CODES, generator=torch.Generator().manual_seed(2))
    chances = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    drawn = pick(logits[None, None], chances[None], SamplingConfig())
    shares = drawn.flatten().bincount(minlength=CODES) / 100_000
    torch.testing.assert_close(shares, logits.softmax(0), atol=2e-5, rtol=0)


def test_filters() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05]).log()
    chances = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    def shares(config: SamplingConfig) -> torch.Tensor:
        return pick(logits[None, None], chances[None], config).flatten().bincount(minlength=5) / 1000

    best_two = torch.tensor([0, 0.4, 0, 0.25, 0]) / 0.65
    torch.testing.assert_close(shares(SamplingConfig(top_k=2)), best_two, atol=2e-3, rtol=0)
    # 0.4 + 0.25 reach 0.65: the third is needed for 0.66.
    assert (shares(SamplingConfig(top_p=0.64)) > 0).tolist() == [False, True, False, True, False]
    assert (shares(SamplingConfig(top_p=0.66)) > 0).tolist() == [False, True, True, True, False]
    sharpened = (logits / 0.5).softmax(0)
    torch.testing.assert_close(shares(SamplingConfig(temperature=0.5)), sharpened, atol=2e-3, rtol=0)
    assert shares(SamplingConfig(temperature=0.0)).tolist() == [0, 1, 0, 0, 0]
    of_equal = pick(torch.zeros(1, 1, 5), chances[None], SamplingConfig(top_k=2))
    assert len(of_equal.unique()) == 2
    torch.testing.assert_close(shares(SamplingConfig(top_k=99)), logits.exp(), atol=2e-3, rtol=0)


def test_a_chance_of_nearly_one_is_never_a_code_that_was_filtered_out() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, -2.0])
    last = torch.tensor([[1 - 2.0**-53]], dtype=torch.float64)
    assert pick(logits[None, None], last, SamplingConfig(top_k=2)) == 1
    assert pick(logits[None, None], last, SamplingConfig()) == 3


@pytest.mark.parametrize("settings", [
    {"temperature": -1.0}, {"temperature": math.nan}, {"temperature": math.inf}, {"guidance": math.nan},
    {"guidance": math.inf}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": math.nan},
])  # fmt: skip
def test_settings_that_draw_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        SamplingConfig(**settings)


def test_the_cache_has_the_dtype_of_the_transformer() -> None:
    transformer = small().bfloat16()
    text, _ = captioned()
    cache = Cache(transformer, prompts=3, candidates=2, shared=0)
    assert cache.own[0].dtype == torch.bfloat16
    drawn = sample_codes(transformer, text, uniforms(3, 2, LENGTH), SamplingConfig(guidance=2.0), null=NULL)
    assert 0 <= int(drawn.min()) and int(drawn.max()) < CODES and TEXT == text.shape[1]


SETTINGS = [SamplingConfig(), SamplingConfig(guidance=2.0, temperature=0.7, top_k=3, top_p=0.8)]


@pytest.mark.parametrize("attention", ["sparse", "full"])
@pytest.mark.parametrize("config", SETTINGS)
def test_drawing_again_with_overwritten_inputs_is_drawing_anew(attention: str, config: SamplingConfig) -> None:
    """The same cache, the same inputs' memory: what a replayed graph has."""
    transformer = small(attention)
    text, given = captioned()
    first = Inputs.of(text.clone(), uniforms(3, 2, LENGTH), config, NULL, _leading(given))
    other = Inputs.of(text.flip(0), uniforms(3, 2, LENGTH, seed=1), config, NULL, _leading(given.flip(0)))
    with torch.inference_mode():
        cache = first.cache(transformer)
        before = draw(transformer, config, first, cache)
        first.overwrite(other)
        again = draw(transformer, config, first, cache)
        anew = draw(transformer, config, other, other.cache(transformer))
    assert torch.equal(again, anew) and not torch.equal(again, before)


def _leading(codes: torch.Tensor, rows: int = 2) -> torch.Tensor:
    return torch.where(torch.arange(LENGTH) < rows * SIDE, codes, -1)


@pytest.mark.parametrize("attention", ["sparse", "full"])
@pytest.mark.parametrize("config", SETTINGS)
def test_drawing_never_asks_what_was_computed(attention: str, config: SamplingConfig) -> None:
    """On the meta device nothing is computed, so whoever asks has an error: a graph could not record it."""
    text, given = captioned()
    inputs = Inputs.of(text, uniforms(3, 2, LENGTH), config, NULL, _leading(given))
    transformer = small(attention)
    with torch.inference_mode():
        nowhere = Inputs(*(part.to("meta") for part in inputs[:3]), inputs.shared)
        transformer = transformer.to("meta")
        drawn = draw(transformer, config, nowhere, nowhere.cache(transformer))
    assert drawn.shape == (3, 2, LENGTH) and drawn.is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attention", ["sparse", "full"])
@pytest.mark.parametrize("config", SETTINGS)
@pytest.mark.parametrize("rows", [0, 2])
def test_a_captured_chunk_is_the_drawn_one(attention: str, config: SamplingConfig, rows: int) -> None:
    transformer = small(attention).cuda()
    text, given = captioned()
    graphed = GraphedSampler(transformer, config)
    for turn in range(4):
        chances, forced = uniforms(3, 2, LENGTH, seed=turn).cuda(), _leading(given.roll(turn, 0), rows).cuda()
        captions = text.roll(turn, 0).cuda()
        drawn = sample_codes(transformer, captions, chances, config, null=NULL.cuda(), forced=forced)
        assert torch.equal(graphed(captions, chances, null=NULL.cuda(), forced=forced), drawn)
    assert len(graphed.graphs) == 1
