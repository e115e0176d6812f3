"""What every image tokenizer must do, over all kinds; where codes stand; how many are in use."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from t2ibench.baselines.interface import from_uint8
from t2ibench.dalle.dvae import DVAEConfig
from t2ibench.dalle.fsq import FSQConfig
from t2ibench.dalle.image_tokenizer import CodebookUse, GridTokenizer, patch, positions_within
from t2ibench.dalle.resnet_codec import CodecConfig
from t2ibench.dalle.tokenizers_of_images import SMALL, TINY, TokenizerConfig, open_tokenizer, tokenizer_stage
from t2ibench.dalle.vqvae2 import VQVAE2, VQVAE2Config
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.checkpoint import load_state, save_state

CODEC = CodecConfig(width=8, first_decoder_width=8, blocks=1, stride=4)
MINIATURE = TokenizerConfig(
    dvae=DVAEConfig(num_codes=16, codec=CODEC), fsq=FSQConfig(levels=(4, 3), codec=CODEC),
    vqvae2=VQVAE2Config(num_codes=16, code_dim=4, width=8, blocks=1, block_width=4),
)  # fmt: skip
KINDS = ("dvae", "vqvae2", "fsq")
GRIDS = {"dvae": (8,), "vqvae2": (4, 8), "fsq": (8,)}

kinds = pytest.mark.parametrize("kind", KINDS)


def opened(kind: Any, config: TokenizerConfig = MINIATURE, image_size: int = 32) -> GridTokenizer:
    """Return an untaught tokenizer; codebooks are where vectors of images are, or one code would be nearest to all."""
    torch.manual_seed(0)
    tokenizer = open_tokenizer(replace(config, kind=kind), image_size)
    if isinstance(tokenizer, VQVAE2):
        with torch.no_grad():
            tokenizer.levels(from_uint8(noise(4, image_size, image_size)), learning=True)
    return tokenizer


def noise(number: int, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)


@kinds
def test_codes_and_images_have_the_promised_form(kind: str) -> None:
    tokenizer, images = opened(kind), noise(5)
    before = images.clone()
    codes = tokenizer.encode(images)
    assert tokenizer.grids == GRIDS[kind] and codes.shape == (5, sum(side**2 for side in tokenizer.grids))
    assert codes.dtype == torch.int64 and codes.min() >= 0 and codes.max() < tokenizer.num_codes
    assert len(codes.unique()) > 1
    decoded = tokenizer.decode(codes)
    assert decoded.shape == (5, 3, 32, 32) and decoded.dtype == torch.uint8
    assert torch.equal(images, before)
    assert not decoded.requires_grad and tokenizer.encode(images[:0]).shape == (0, codes.shape[1])
    assert tokenizer.decode(codes[:0]).shape == (0, 3, 32, 32)


@kinds
def test_no_row_depends_on_how_many_come_with_it(kind: str) -> None:
    tokenizer, images = opened(kind), noise(70)
    codes = tokenizer.encode(images)
    decoded = tokenizer.decode(codes)
    for some in (slice(0, 1), slice(3, 10), slice(65, 70)):
        assert torch.equal(tokenizer.encode(images[some]), codes[some])
        assert torch.equal(tokenizer.decode(codes[some]), decoded[some])


@kinds
def test_the_network_always_sees_as_many_rows(kind: str) -> None:
    """Kernels may round differently for another number."""
    tokenizer, seen = opened(kind), []
    codes_of, images_of = tokenizer.codes_of, tokenizer.images_of

    def noted(run: Any) -> Any:
        return lambda rows: (seen.append(len(rows)), run(rows))[1]

    tokenizer.codes_of, tokenizer.images_of = noted(codes_of), noted(images_of)
    for number in (1, 5, 70):
        tokenizer.decode(tokenizer.encode(noise(number)))
    assert set(seen) == {64} and len(seen) == 8


@kinds
def test_codes_depend_on_their_own_cell_and_pixels_on_their_own_codes(kind: str) -> None:
    """In raster order: what changes in one corner of the image does not reach the opposite one."""
    tokenizer, images = opened(kind, image_size=128), noise(1, 128, 128)
    changed = images.clone()
    changed[..., :8, 120:] = 255 - changed[..., :8, 120:]
    differs = (tokenizer.encode(images) != tokenizer.encode(changed))[0]
    far = positions_within(tokenizer, 64, 0, 64, 64)
    assert differs[positions_within(tokenizer, 0, 96, 32, 32)].any() and not differs[far].any()
    codes = torch.zeros(1, len(differs), dtype=torch.long)
    recoded = codes.clone()
    recoded[:, positions_within(tokenizer, 0, 120, 8, 8)] = tokenizer.num_codes - 1
    moved = (tokenizer.decode(codes) != tokenizer.decode(recoded)).any(1)[0]
    assert moved[:32, 96:].any() and not moved[64:].any() and not moved[:, :64].any()


@kinds
@pytest.mark.parametrize("box", [(0, 0, 16, 32), (0, 8, 32, 8), (16, 8, 8, 24), (0, 0, 32, 32)])
def test_a_part_has_the_codes_of_its_cells(kind: str, box: tuple[int, int, int, int]) -> None:
    tokenizer = opened(kind)
    top, left, height, width = box
    places = positions_within(tokenizer, *box)
    codes = tokenizer.encode(noise(2)[..., top : top + height, left : left + width])
    assert codes.shape == (2, len(places)) and len(places.unique()) == len(places)
    expected, before = [], 0
    for grid in tokenizer.grids:
        side = 32 // grid
        for row in range(grid):
            for column in range(grid):
                inside = top <= row * side < top + height and left <= column * side < left + width
                expected += [before + row * grid + column] if inside else []
        before += grid**2
    assert places.tolist() == expected


@kinds
def test_a_strip_as_wide_as_the_image_is_encoded_like_the_image(kind: str) -> None:
    """Far enough from the cut, the codes of the upper part are those of the whole."""
    tokenizer, images = opened(kind, image_size=128), noise(1, 128, 128)
    alone, whole = tokenizer.encode(images[..., :96, :]), tokenizer.encode(images)
    placed = torch.full_like(whole, -1)
    placed[:, positions_within(tokenizer, 0, 0, 96, 128)] = alone
    upper = positions_within(tokenizer, 0, 0, 32, 128)
    assert torch.equal(placed[:, upper], whole[:, upper])


@pytest.mark.parametrize(
    "box", [(0, 0, 4, 32), (2, 0, 8, 8), (0, 0, 0, 8), (0, 24, 8, 16), (-8, 0, 8, 8), (0, 0, 8, 40)]
)
def test_boxes_across_cells_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match="expected"):
        positions_within(opened("vqvae2"), *box)


def test_the_coarsest_cell_is_the_patch() -> None:
    assert [patch(opened(kind)) for kind in KINDS] == [4, 8, 4]


@kinds
def test_what_is_no_image_or_no_code_is_refused(kind: str) -> None:
    tokenizer = opened(kind)
    length = sum(side**2 for side in tokenizer.grids)
    for images in (noise(1).float(), noise(1)[:, :1], noise(1)[..., :30], noise(1, 40, 32), noise(1)[0]):
        with pytest.raises(ValueError, match="expected images"):
            tokenizer.encode(images)
    one = torch.ones(1, length, dtype=torch.long)
    for codes in (one[:, 1:], one * tokenizer.num_codes, -one, one[0]):
        with pytest.raises(ValueError, match="expected codes"):
            tokenizer.decode(codes)


def learnt(stage: Any, data: Store, start: int, stop: int) -> None:
    for step in range(start, stop):
        torch.manual_seed(step)
        stage.train_step(data.batch(np.arange(step * 8, step * 8 + 8)))


@kinds
def test_a_stage_that_is_restored_goes_on_as_if_never_stopped(kind: Any, world: Store, tmp_path: Any) -> None:
    config = replace(MINIATURE, kind=kind)
    stages = []
    for _ in range(2):
        stage = tokenizer_stage(opened(kind), config)
        stage.total_steps = 6
        stages.append(stage)
    learnt(stages[0], world, 0, 3)
    save_state(tmp_path / "state.safetensors", stages[0].state_dict())
    learnt(stages[0], world, 3, 6)
    stages[1].load_state_dict(load_state(tmp_path / "state.safetensors"))
    learnt(stages[1], world, 3, 6)
    one, other = (stage.state_dict() for stage in stages)
    assert one["steps"] == other["steps"] == 6
    assert all(torch.equal(value, other["tokenizer"][name]) for name, value in one["tokenizer"].items())
    images = world.batch(np.arange(4)).images
    assert torch.equal(stages[0].tokenizer.encode(images), stages[1].tokenizer.encode(images))


@kinds
def test_a_stage_learns_and_says_so(kind: Any, world: Store) -> None:
    """A hundred steps on eight images bring their hard reconstructions nearer to them than half of a mean image's."""
    config = replace(TINY, kind=kind)
    tokenizer = opened(kind, TINY)
    stage = tokenizer_stage(tokenizer, config)
    assert stage.name == "tokenizer" and stage.share == config.share and not stage.draws
    stage.total_steps = 100
    batch = world.batch(np.arange(8))
    for step in range(100):
        torch.manual_seed(step)
        losses = stage.train_step(batch)
    assert all(np.isfinite(float(loss)) for loss in losses.values()) and 0 < float(losses["codes_used"]) <= 1
    images = batch.images.double()
    error = (tokenizer.decode(tokenizer.encode(batch.images)).double() - images).square().mean()
    assert error < (images - images.mean(0)).square().mean() / 2


@kinds
def test_the_rate_falls_over_its_share_of_the_steps(kind: Any, world: Store) -> None:
    config = replace(MINIATURE, kind=kind)
    stage = tokenizer_stage(opened(kind), config)
    stage.total_steps, teaching = 10, stage.teaching
    for taken, expected in ((0, teaching.learning_rate), (10, teaching.last_learning_rate)):
        stage.steps = taken
        stage.train_step(world.batch(np.arange(2)))
        assert stage.optimiser.param_groups[0]["lr"] == pytest.approx(expected)


@kinds
@pytest.mark.parametrize("config, size", [(TINY, 32), (SMALL, 64), (TokenizerConfig(), 256)])
def test_every_size_builds_without_memory(kind: Any, config: TokenizerConfig, size: int) -> None:
    with torch.device("meta"):
        tokenizer = open_tokenizer(replace(config, kind=kind), size)
        stage = tokenizer_stage(tokenizer, replace(config, kind=kind))
    assert all(value.is_meta for value in tokenizer.state_dict().values())
    assert stage.share == config.share
    side = {32: 8, 64: 16, 256: 32}[size]
    assert tokenizer.grids[-1] == (64 if kind == "vqvae2" and size == 256 else side)


def test_codebook_use_counts_as_numpy_does() -> None:
    tokenizer = opened("vqvae2")
    codes = torch.randint(0, 12, (30, 80), generator=torch.Generator().manual_seed(0))
    use = CodebookUse(tokenizer)
    for some in codes.split([10, 20]):
        use.add(some)
    used, perplexities = [], []
    for level in (codes[:, :16].numpy(), codes[:, 16:].numpy()):
        shares = np.bincount(level.ravel(), minlength=16) / level.size
        used.append((shares > 0).mean())
        present = shares[shares > 0]
        perplexities.append(np.exp(-(present * np.log(present)).sum()))
    assert use.used == pytest.approx(used) and use.perplexity == pytest.approx(np.mean(perplexities))
    assert use.used == [12 / 16, 12 / 16]


def test_even_use_is_as_perplexing_as_there_are_codes_and_one_code_not_at_all() -> None:
    tokenizer = opened("dvae")
    even, one = CodebookUse(tokenizer), CodebookUse(tokenizer)
    even.add(torch.arange(64).view(1, 64) % 16)
    one.add(torch.full((3, 64), 7))
    assert (even.used, even.perplexity) == ([1.0], pytest.approx(16))
    assert (one.used, one.perplexity) == ([1 / 16], 1.0)


def test_settings_that_make_no_tokenizer_are_refused() -> None:
    for make in (
        lambda: CodecConfig(stride=6), lambda: CodecConfig(stride=4, unshuffle=8), lambda: CodecConfig(kernel=4),
        lambda: TokenizerConfig(share=1.0), lambda: FSQConfig(levels=(8, 1)), lambda: DVAEConfig(last_temperature=0.0),
        lambda: VQVAE2Config(decay=1.0), lambda: opened("dvae", image_size=30), lambda: opened("vqvae2", image_size=36),
        lambda: DVAEConfig(divergence_rises_over=0.0), lambda: opened("fsq", image_size=2),
    ):  # fmt: skip
        with pytest.raises(UserError):
            make()
