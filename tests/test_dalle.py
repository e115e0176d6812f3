"""DALL-E as one model: image prompts read from what is given alone, the best of many candidates, cached codes."""

import copy
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from t2ibench import cli
from t2ibench.baselines.text_transformer import text_fingerprint
from t2ibench.dalle import model, prior
from t2ibench.dalle.image_prompt import ImagePrompt, forced_codes
from t2ibench.dalle.image_tokenizer import positions_within
from t2ibench.dalle.model import CANDIDATES, DallE, DallEConfig
from t2ibench.dalle.prior import Codes, PriorStage
from t2ibench.dalle.reranking import best_of
from t2ibench.dalle.sampler import SamplingConfig, sample_codes
from t2ibench.dalle.schedule import cosine, warmed_up
from t2ibench.dalle.transformer import Transformer
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.eval.joint_judge import JointJudge
from t2ibench.eval.judges import refuse_own_choice
from t2ibench.suite.describe import describe
from t2ibench.suite.plugins import find_model
from t2ibench.suite.scoring import ranked_by
from t2ibench.suite.spec import resolve_config
from t2ibench.tests.test_cli import Call
from t2ibench.tests.test_models import SMALL, learn, make


@pytest.fixture(scope="module", params=["tiny", "tiny-vqvae2"])
def dalle(request: pytest.FixtureRequest, world: Store) -> DallE:
    model = make("dalle", request.param)
    learn(model, world, steps=3)
    assert isinstance(model, DallE)
    return model


def tiny_with(settings: dict[str, float]) -> DallE:
    torch.manual_seed(0)
    return DallE(resolve_config(find_model("dalle").presets["tiny"], SMALL["dalle"] | settings))


def test_schedules_at_their_start_middle_and_end() -> None:
    assert [cosine(at, 1.0, 0.0) for at in (-1.0, 0.0, 0.5, 1.0, 2.0)] == pytest.approx([1, 1, 0.5, 0, 0])
    rates = [warmed_up(at, 0.1, 2.0, 1.0) for at in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 1, 2, 1.5, 1])
    assert warmed_up(0.0, 0.0, 2.0, 1.0) == 2


def test_paper_has_12_billion_parameters_in_the_transformer_and_the_published_clip() -> None:
    parameters = describe("dalle", "paper", {}).parameters
    assert 12.0e9 < parameters["transformer"] < 12.3e9
    assert parameters["clip"] == 151_277_313
    assert parameters["tokenizer"] == pytest.approx(53.8e6 + 43.8e6, rel=5e-3)


def test_the_shares_of_the_stages_are_the_whole() -> None:
    tiny = find_model("dalle").presets["tiny"]
    assert resolve_config(tiny, {"prior.share": 0.5, "clip.share": 0.1}).prior.share == 0.5
    with pytest.raises(UserError, match="expected 1"):
        resolve_config(tiny, {"prior.share": 0.9})
    assert DallEConfig().clip.embed_dim == 512


def test_every_image_is_encoded_once(dalle: DallE, world: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = Codes(dalle.tokenizer, world)
    batch = world.batch([5, 280, 5])
    assert torch.equal(codes(batch), dalle.tokenizer.encode(batch.images))
    stage = dalle.stages(world)[1]
    assert isinstance(stage, PriorStage)
    stage.train_step(world.batch(range(32)))
    monkeypatch.setattr(dalle.tokenizer, "codes_of", None)
    stage.train_step(world.batch(range(100, 132)))


def test_a_step_goes_down_an_eighth_of_the_text_loss_and_seven_of_the_image_loss(world: Store) -> None:
    model = tiny_with({"prior.caption_dropout": 0.0, "prior.clip_norm": 1e9, "sampling.guidance": 1.0})
    stage, batch = model.stages(world)[1], world.batch(range(8))
    assert isinstance(stage, PriorStage) and stage.config.text_weight == 1 / 8
    before = copy.deepcopy(model.transformer)
    losses = before.losses(model.pieces(batch.captions), model.tokenizer.encode(batch.images))
    (losses.text / 8 + losses.image * 7 / 8).backward()
    stage.train_step(batch)
    for expected, parameter in zip(before.parameters(), model.transformer.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_the_transformer_is_taught_by_the_published_recipe(world: Store) -> None:
    """AdamW with these moments, decay of matrices alone, a warm-up and a cosine, a clipped gradient, an average."""
    model = tiny_with({"prior.clip_norm": 0.01, "prior.warm_up": 0.2, "prior.last_rate": 0.1, "prior.ema_kimg": 3.0})
    stage = model.stages(world)[1]
    assert isinstance(stage, PriorStage)
    config, (decaying, others) = stage.config, stage.optimiser.param_groups
    assert isinstance(stage.optimiser, torch.optim.AdamW)
    assert decaying["betas"] == others["betas"] == config.adam_betas == (0.9, 0.96)
    assert (decaying["weight_decay"], others["weight_decay"]) == (config.weight_decay, 0) != (0, 0)
    linear = {id(part.weight) for part in model.transformer.modules() if isinstance(part, torch.nn.Linear)}
    assert {id(parameter) for parameter in decaying["params"]} == linear
    assert stage.averaged == {"transformer": model.transformer} and stage.ema_kimg == 3.0
    stage.total_steps, rates = 100, {}
    for step in (0, 19, 59, 99):
        stage.steps = step
        stage.train_step(world.batch(range(8)))
        rates[step] = {group["lr"] / config.learning_rate for group in stage.optimiser.param_groups}
        norm = torch.stack([p.grad.norm() for p in model.transformer.parameters() if p.grad is not None]).norm()
        assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert [rate for [rate] in rates.values()] == pytest.approx([0.05, 1.0, 0.55, 0.1])


def test_validation_leaves_everything_as_it_is(
    dalle: DallE, world: Store, held_out: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = dalle.stages(world)[1]
    assert isinstance(stage, PriorStage)
    stage.train_step(world.batch(range(32)))
    before = {key: value.clone() for key, value in dalle.transformer.state_dict().items()}
    losses = stage.validate(held_out)
    assert set(losses) == {"text_validation", "image_validation"}
    assert 0 < losses["image_validation"] < 2 * math.log(dalle.tokenizer.num_codes)
    assert stage.validate(held_out) == losses
    monkeypatch.setattr(prior, "VALIDATED_AT_ONCE", 7)
    assert stage.validate(held_out) == pytest.approx(losses, rel=1e-5)
    assert all(torch.equal(before[key], value) for key, value in dalle.transformer.state_dict().items())


@pytest.mark.parametrize("preset", ["tiny", "tiny-dvae", "tiny-vqvae2"])
def test_every_stage_learns_in_bfloat16_and_codes_are_those_of_float32(preset: str, world: Store) -> None:
    model = make("dalle", preset)
    assert isinstance(model, DallE)
    for stage in model.stages(world):
        for step in range(3):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                losses = stage.train_step(world.batch(range(step * 8, step * 8 + stage.batch_size)))
            assert all(math.isfinite(float(value)) for value in losses.values())
    images = world.batch(range(64)).images
    with torch.autocast("cpu", torch.bfloat16):
        codes = model.tokenizer.encode(images)
    assert torch.equal(codes, model.tokenizer.encode(images))


def test_a_collapsed_codebook_is_warned_of_before_the_transformer_learns(
    dalle: DallE, world: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer, length = dalle.tokenizer, dalle.transformer.codes
    monkeypatch.setattr(tokenizer, "codes_of", lambda images: torch.randint(tokenizer.num_codes, (len(images), length)))
    dalle.stages(world)[1].train_step(world.batch(range(8)))
    assert not caplog.records
    monkeypatch.setattr(tokenizer, "codes_of", lambda images: torch.full((len(images), length), 7))
    dalle.stages(world)[1].train_step(world.batch(range(8)))
    share = f"codebook collapse: {1 / tokenizer.num_codes:.1%} of {tokenizer.num_codes:,} codes are in use"
    for record, side in zip(caplog.records, tokenizer.grids, strict=True):
        assert record.message.startswith(f"{share} on the grid of {side} x {side}; ")


@pytest.mark.parametrize(("setting", "value"), [
    ("tokenizer.fsq.codec.unshuffle", 0), ("tokenizer.fsq.codec.unshuffle", -1), ("tokenizer.fsq.codec.width", 0),
    ("tokenizer.fsq.codec.width", -4), ("tokenizer.fsq.codec.first_decoder_width", 0),
    ("tokenizer.fsq.codec.kernel", -1), ("tokenizer.fsq.teaching.clip_norm", 0.0),
    ("tokenizer.dvae.divergence_weight", -1.0), ("tokenizer.dvae.logits_deviation", 0.0),
    ("tokenizer.vqvae2.code_dim", 0), ("tokenizer.vqvae2.width", 0), ("tokenizer.vqvae2.block_width", 0),
    ("tokenizer.vqvae2.blocks", -1), ("tokenizer.vqvae2.commitment", -1.0), ("prior.clip_norm", 0.0),
    ("clip.learning_rate", -1.0), ("clip.beta1", 1.5), ("clip.weight_decay", -0.1),
])  # fmt: skip
def test_settings_that_make_no_network_or_teach_nothing_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"{setting.split('.')[-1]}\b.*expected|expected.*{setting.split('.')[-1]}\b"):
        resolve_config(find_model("dalle").presets["tiny"], {setting: value})


def test_guidance_needs_captions_left_out() -> None:
    tiny = find_model("dalle").presets["tiny"]
    assert resolve_config(tiny, {"sampling.guidance": 3.0}).sampling.guidance == 3
    with pytest.raises(UserError, match="caption_dropout"):
        resolve_config(tiny, {"sampling.guidance": 3.0, "prior.caption_dropout": 0.0})


def test_one_image_a_caption(dalle: DallE, world: Store) -> None:
    with pytest.raises(ValueError, match="one image a caption"):
        dalle.complete(["a star"] * 2, world.batch([0]).images, 8, seeds=[0, 1])


def test_captions_are_left_out_and_cut_in_many_ways_as_often_as_asked_for(world: Store) -> None:
    model = tiny_with({"prior.bpe_dropout": 0.1})
    stage = model.stages(world)[1]
    assert isinstance(stage, PriorStage)
    torch.manual_seed(0)
    read = stage.read(["a red circle"] * 2000)
    share = float((read == model.pieces([""])).all(1).float().mean())
    assert share == pytest.approx(stage.config.caption_dropout, abs=0.02)
    assert len({tuple(row) for row in read.tolist()}) > 10, "pieces are cut in many ways"


@pytest.mark.parametrize(("rows", "columns"), [(16, 0), (0, 8), (8, 16)])
def test_what_is_drawn_depends_on_the_given_pixels_alone(
    dalle: DallE, world: Store, rows: int, columns: int
) -> None:  # fmt: skip
    """Whatever the rest of the image shows, of which an encoder would see the edge."""
    images = world.batch(range(3)).images
    other = images.clone()
    other[:, :, rows:, columns:] = 255 - other[:, :, rows:, columns:]
    captions, seeds = ["a red circle", "a star", ""], [1, 2, 3]
    drawn = dalle.complete(captions, images, rows, columns, seeds=seeds)
    assert torch.equal(drawn, dalle.complete(captions, other, rows, columns, seeds=seeds))
    changed = images.clone()
    changed[:, :, : rows or 32, : columns or 32] = 128
    assert not torch.equal(drawn, dalle.complete(captions, changed, rows, columns, seeds=seeds))


def test_the_given_codes_are_those_of_the_strips(dalle: DallE, world: Store) -> None:
    images = world.batch(range(2)).images
    forced = forced_codes(dalle.tokenizer, ImagePrompt(images, 16, 8))
    top = positions_within(dalle.tokenizer, 0, 0, 16, 32)
    left = positions_within(dalle.tokenizer, 16, 0, 16, 8)
    assert torch.equal(forced[:, top], dalle.tokenizer.encode(images[:, :, :16]))
    assert torch.equal(forced[:, left], dalle.tokenizer.encode(images[:, :, 16:, :8]))
    assert int((forced < 0).sum()) == 2 * (forced.shape[1] - len(top) - len(left))
    assert set(top.tolist()).isdisjoint(left.tolist())


def test_completions_do_not_depend_on_the_batch_size(dalle: DallE, world: Store) -> None:
    batch = world.batch(range(40))
    seeds = list(range(40))
    whole = dalle.complete(batch.captions, batch.images, 16, seeds=seeds)
    parts = [dalle.complete(batch.captions[at : at + 9], batch.images[at : at + 9], 16, seeds=seeds[at : at + 9])
             for at in range(0, 40, 9)]  # fmt: skip
    assert torch.equal(torch.cat(parts), whole)


def test_candidates_go_on_with_an_image_prompt_as_completions_do(dalle: DallE, world: Store) -> None:
    caption, seeds, images = "a red circle", list(range(5)), world.batch([7]).images
    drawn = torch.cat(list(dalle.candidates(caption, seeds, ImagePrompt(images, 16, 0))))
    completed = dalle.complete([caption] * 5, images.expand(5, -1, -1, -1), 16, seeds=seeds)
    assert torch.equal(drawn, completed)
    assert not torch.equal(drawn, torch.cat(list(dalle.candidates(caption, seeds))))


def test_the_model_is_guided_away_from_what_it_draws_without_a_caption(dalle: DallE) -> None:
    def drawn(caption: str, guidance: float) -> torch.Tensor:
        guided = copy.copy(dalle)
        guided.config = resolve_config(dalle.config, {"sampling.guidance": guidance})
        return guided.sample([caption] * 8, seeds=range(8))

    assert torch.equal(drawn("a red circle", 0.0), drawn("", 1.0))
    assert not torch.equal(drawn("a red circle", 3.0), drawn("a red circle", 1.0))


def test_a_guided_image_costs_the_transformer_twice() -> None:
    once, twice = (describe("dalle", "tiny", {"sampling.guidance": guidance}).flops_per_image for guidance in (1, 3))
    transformer = find_model("dalle").presets["tiny"].transformer
    states = transformer.text_length + 8 * 8
    least = 2 * 12 * transformer.width**2 * transformer.layers * states
    assert 1.6 * once < twice < 2 * once and twice - once > least


@pytest.mark.parametrize(
    ("rows", "columns", "named"), [(3, 0, "3 rows"), (32, 0, "32 rows"), (0, -8, "-8 columns"), (0, 0, "nothing")]
)
def test_prompts_that_cannot_be_kept_are_refused(
    dalle: DallE, world: Store, rows: int, columns: int, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        dalle.complete(["a star"], world.batch([0]).images, rows, columns, seeds=[0])


def test_prompts_of_another_size_are_refused(dalle: DallE) -> None:
    with pytest.raises(UserError, match="32 x 32"):
        dalle.complete(["a star"], torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 8, seeds=[0])


class Darkest:
    """Candidate k is one grey of its own; the darkest are best."""

    def __init__(self, greys: Sequence[int], part: int) -> None:
        self.greys, self.part = greys, part

    def candidates(
        self, caption: str, seeds: Sequence[int], given: ImagePrompt | None = None
    ) -> Iterator[torch.Tensor]:
        greys = torch.tensor([self.greys[seed] for seed in seeds], dtype=torch.uint8)
        for some in greys.split(self.part):
            yield some[:, None, None, None].expand(-1, 3, 2, 2)

    def rank(self, captions: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        assert set(captions) == {"grey"} and len(captions) == len(images)
        return -images[:, 0, 0, 0].float()

    def ranked_by(self) -> str:
        return "grey"


@pytest.mark.parametrize("part", [1, 4, 7, 100])
@pytest.mark.parametrize("keep", [1, 5, 50, 80])
def test_the_best_are_those_of_scoring_all_and_sorting(part: int, keep: int) -> None:
    greys = np.random.default_rng(0).integers(0, 20, 50).tolist()
    heard: list[int] = []
    best = best_of(Darkest(greys, part), "grey", range(50), keep, progress=heard.append)
    order = np.argsort(greys, kind="stable")[:keep]
    assert best.numbers.tolist() == order.tolist()
    assert (-best.scores).tolist() == [greys[k] for k in order]
    assert best.images[:, 0, 0, 0].tolist() == [greys[k] for k in order]
    assert heard[-1] == 50


def test_a_candidate_is_the_same_whatever_their_number(dalle: DallE) -> None:
    seeds = list(range(CANDIDATES + 10))
    many = torch.cat(list(dalle.candidates("a red circle", seeds)))
    assert many.shape == (CANDIDATES + 10, 3, 32, 32)
    assert torch.equal(torch.cat(list(dalle.candidates("a red circle", seeds[:3]))), many[:3])
    assert torch.equal(torch.cat(list(dalle.candidates("a red circle", seeds[5:]))), many[5:])
    assert len({image.numpy().tobytes() for image in many}) > 1


def test_candidates_drawn_in_bfloat16_are_nearly_those_of_float32(
    dalle: DallE, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []
    asked: list[SamplingConfig] = []

    def noted(
        transformer: Transformer, text: torch.Tensor, uniforms: torch.Tensor, config: SamplingConfig, **named: Any
    ) -> torch.Tensor:
        dtypes.append(transformer.image_head.weight.dtype)
        asked.append(config)
        return sample_codes(transformer, text, uniforms, config, **named)

    monkeypatch.setattr(model, "sample_codes", noted)
    half = copy.copy(dalle)
    half.config = resolve_config(dalle.config, {"sampling.precision": "bfloat16"})
    seeds = list(range(20))
    [whole], [rough] = (list(each.candidates("a red circle", seeds)) for each in (dalle, half))
    assert asked == [dalle.config.sampling, half.config.sampling]
    assert dtypes == [torch.float32, torch.bfloat16] and dalle.transformer.image_head.weight.dtype == torch.float32
    assert torch.equal(next(half.candidates("a red circle", seeds[:3])), rough[:3])
    differing = (whole.float() - rough.float()).abs().mean() / (whole.float() - whole.float().flip(0)).abs().mean()
    assert 0 < differing < 0.3


def test_who_ranks_is_known_by_its_token_embedding(dalle: DallE) -> None:
    weight = dalle.clip.text.token_embedding.weight
    assert dalle.ranked_by() == text_fingerprint(weight) == text_fingerprint(weight.half())
    assert text_fingerprint(weight + 0.1) != dalle.ranked_by()


def test_sample_by_the_command_line(call: Call, tmp_path: Path) -> None:
    settings = [part for name, value in [*SMALL["dalle"].items(), ("clip.batch_size", 32)]
                for part in ("--set", f"{name}={json.dumps(value)}")]
    code, out, _ = call("train", "dalle", "--budget", "256", "--runs", tmp_path, "--json", *settings)
    assert code == 0
    folder = json.loads(out)["run"]
    code, out, _ = call("sample", folder, "a red circle", "--best-of", "130", "--keep", "4", "--out", tmp_path / "best",
                        "--json")  # fmt: skip
    assert code == 0 and json.loads(out)["images"] == 4
    rows = [json.loads(line) for line in (tmp_path / "best" / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and len({row["candidate"] for row in rows}) == 4
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {row["text"] for row in rows} == {"a red circle"} and len({row["ranked_by"] for row in rows}) == 1
    assert Image.open(tmp_path / "best" / "grid.png").size == (4 * 34, 34)

    judge = JointJudge("rival", Path(cli.__file__).parent / "eval" / "scenes_judge.safetensors")
    assert ranked_by(tmp_path / "best") == {rows[0]["ranked_by"]} != {judge.fingerprint}
    refuse_own_choice([judge], ranked_by(tmp_path / "best"), "best")
    (tmp_path / "best" / "metadata.jsonl").write_text(
        "".join(json.dumps(row | {"ranked_by": judge.fingerprint}) + "\n" for row in rows)
    )
    code, _, err = call("score", "--images", tmp_path / "best", "--data", "scenes", "--judges", "scenes")
    assert code == 2 and "cannot score its own choice" in err

    quick = ("score", folder, "--samples", "100", "--judges", "scenes", "--no-probes", "--json")
    scored = [json.loads(call(*quick, *more)[1])["scores"] for more in ([], ["--set", "sampling.temperature=0"], [])]
    assert scored[0] == scored[2] and scored[0]["fid@scenes"] != scored[1]["fid@scenes"]
    kept = [json.loads(file.read_text()) for file in Path(folder).glob("scores/*/record.json")]
    assert len(kept) == 2
    [changed] = [record for record in kept if "drawn with sampling.temperature=0" in record["notes"]]
    assert changed["spec"]["evaluation"]["drawn_with"] == {"sampling.temperature": "0"}
    assert any("reconstructions of real test images" in note for note in changed["notes"])
    assert set(changed["controls"]["reconstructed"]) >= {"psnr@codes", "ssim@codes", "perplexity@codes", "fid@scenes"}
    code, _, err = call("score", folder, "--set", "seed=1")
    assert code == 2 and "decides the training" in err

    greedy = ["--set", "sampling.temperature=0", "--n", "2"]
    assert call("sample", folder, "a star", *greedy, "--out", tmp_path / "greedy")[0] == 0
    assert (tmp_path / "greedy" / "0000.png").read_bytes() == (tmp_path / "greedy" / "0001.png").read_bytes()

    Image.new("L", (50, 50), 200).save(tmp_path / "grey.png")
    Image.new("RGB", (32, 16), "red").save(tmp_path / "half.png")
    code, out, _ = call("sample", folder, "a star", "--image-prompt", tmp_path / "grey.png", "--keep-rows", "16",
                        "--n", "2", "--out", tmp_path / "on", "--json")  # fmt: skip
    assert code == 0 and json.loads(out)["images"] == 2

    (tmp_path / "text.png").write_text("no image")
    prompt = ["--image-prompt", str(tmp_path / "grey.png")]
    for arguments, line in (
        (["a " + "very " * 60 + "red circle"], "the model reads 32"),
        ([" "], "says nothing"),
        (["a star", "--best-of", "4", "--keep", "5"], "more than the --best-of 4"),
        (["a star", "--keep", "5"], "goes with --best-of"),
        (["a star", "--best-of", "8", "--n", "5"], "--n 5: goes without --best-of"),
        (["a star", "--image-prompt", str(tmp_path / "half.png"), "--keep-rows", "16"], "32 x 16 pixels, expected"),
        (["a star", "--keep-rows", "8"], "--image-prompt"),
        (["a star", *prompt, "--keep-rows", "5"], "multiple of 4"),
        (["a star", *prompt, "--keep-rows", "32"], "multiple of 4"),
        (["a star", *prompt], "keeps nothing"),
        (["a star", "--set", "sampling.temperatur=1"], "sampling.temperature"),
        (["a star", "--set", "sampling.top_p=0"], "top_p"),
        (["a star", "--set", "transformer.width=8"], "decides the training"),
        (["a star", "--image-prompt", str(tmp_path / "text.png"), "--keep-rows", "8"], "text.png"),
        (["a star", "--image-prompt", str(tmp_path / "none.png"), "--keep-rows", "8"], "none.png"),
    ):
        code, _, err = call("sample", folder, *arguments, "--out", tmp_path / "refused")
        assert code == 2 and line in err and err.count("\n") == 1, err
    assert not (tmp_path / "refused").exists()
