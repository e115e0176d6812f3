"""The loop: budgets, order, averages, the guard, and runs that are killed and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from t2ibench.baselines.interface import Stage, optimiser_step
from t2ibench.datasets.captioned import Batch, CaptionedDataset
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.files import digest_of_file
from t2ibench.reports.records import read_log
from t2ibench.suite.training import Average, train


class ToyStage:
    """A line fitted to the mean brightness of images, with noise in every step."""

    name, share, batch_size, draws, ema_kimg = "line", 1.0, 10, True, 0.05

    def __init__(self, line: nn.Linear, fail_at: int | None = None) -> None:
        self.line, self.fail_at, self.steps = line, fail_at, 0
        self.averaged: Mapping[str, nn.Module] = {"line": line}
        self.optimiser = torch.optim.Adam(line.parameters(), 0.01)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        brightness = batch.images.float().mean((1, 2, 3), keepdim=False)[:, None] / 255
        loss = (self.line(torch.randn(len(batch), 1)) - brightness).square().mean()
        optimiser_step(self.optimiser, loss)
        self.steps += 1
        return {"loss": loss.detach() * (float("nan") if self.steps == self.fail_at else 1.0)}

    def state_dict(self) -> dict[str, Any]:
        return {"line": self.line.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.line.load_state_dict(state["line"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]


class ToyModel:
    config = None

    def __init__(self, fail_at: int | None = None, stages: int = 2) -> None:
        torch.manual_seed(0)
        self.lines = [nn.Linear(1, 1) for _ in range(stages)]
        self.fail_at = fail_at

    def networks(self) -> Mapping[str, nn.Module]:
        return {f"line{number}": line for number, line in enumerate(self.lines)}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        stages = [ToyStage(line, self.fail_at) for line in self.lines]
        for number, stage in enumerate(stages):
            stage.name, stage.share = f"stage{number}", 1 / len(stages)
        return stages

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        return torch.zeros(len(captions), 3, 4, 4, dtype=torch.uint8)


def test_budget_is_over_all_stages_and_logged(world: Store, tmp_path: Path) -> None:
    grids: list[int] = []
    costs = train(ToyModel(), world, tmp_path, budget=1000, seed=0, draw_grid=grids.append)
    assert [(cost.stage, cost.images, cost.steps) for cost in costs] == [("stage0", 500, 50), ("stage1", 500, 50)]
    rows = read_log(tmp_path)
    assert [row.images for row in rows] == list(range(10, 1001, 10))
    assert grids[0] == 10 and grids[-1] == 980 and len(grids) == 18
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"train.jsonl", "weights.safetensors", "training.json"}
    assert json.loads((tmp_path / "training.json").read_text())[1]["steps"] == 50


def test_budget_of_zero_leaves_the_untrained_network(world: Store, tmp_path: Path) -> None:
    model = ToyModel()
    before = model.lines[0].weight.item()
    train(model, world, tmp_path, budget=0, seed=0)
    assert model.lines[0].weight.item() == before and (tmp_path / "weights.safetensors").exists()


def test_budget_of_which_a_stage_would_get_no_batch(world: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"budget 19: not one batch for stage stage1; expected 0, or 20 images or more"):
        train(ToyModel(), world, tmp_path, budget=19, seed=0)
    assert [cost.steps for cost in train(ToyModel(), world, tmp_path, budget=20, seed=0)] == [1, 1]


def test_shares_must_sum_to_one(world: Store, tmp_path: Path) -> None:
    model = ToyModel()
    stages = model.stages(world)
    stages[0].share = 0.9
    model.stages = lambda data: stages  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"shares of the budget are \[0\.9, 0\.5\]"):
        train(model, world, tmp_path, budget=100, seed=0)


def test_average_is_exponential_and_takes_in_the_buffers() -> None:
    network = nn.BatchNorm1d(1)
    average = Average({"net": network}, kimg=1.0)
    with torch.no_grad():
        network.weight.fill_(3.0)
    network.running_mean.fill_(7.0)
    average.update(batch_size=100, images_seen=10**9)
    expected = 3.0 - 2.0 * 0.5**0.1
    assert average.copies["net"].weight.item() == pytest.approx(expected, rel=1e-6)
    assert average.copies["net"].running_mean.item() == pytest.approx(7.0 * (1 - 0.5**0.1), rel=1e-6)
    network.num_batches_tracked.fill_(9)
    average.update(batch_size=0, images_seen=10**9)
    assert average.copies["net"].num_batches_tracked.item() == 9
    with average.in_place():
        assert network.weight.item() == pytest.approx(expected, rel=1e-6)
    assert network.weight.item() == 3.0


def test_a_buffer_that_a_step_replaced_is_refused() -> None:
    network = nn.BatchNorm1d(1)
    average = Average({"net": network}, kimg=1.0)
    network.load_state_dict(nn.BatchNorm1d(1).state_dict(), assign=True)
    average.load_state_dict({"net": average.copies["net"].state_dict()})
    average.settle()
    network.running_mean = torch.ones(1)
    for use in (average.settle, average.state_dict):
        with pytest.raises(UserError, match=r"net: a training step replaced a parameter or buffer.*in place"):
            use()
    bare = nn.BatchNorm1d(1, track_running_stats=False)
    average = Average({"net": bare}, kimg=1.0)
    bare.running_mean = torch.ones(1)
    with pytest.raises(UserError, match="replaced"):
        average.settle()


def test_a_loss_that_is_not_finite_names_stage_step_and_checkpoint_and_resume_goes_on(
    world: Store, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"stage stage0, step 30: loss is not finite; the last good checkpoint is"):
        train(ToyModel(fail_at=31), world, tmp_path, budget=1000, seed=0, checkpoint_seconds=0)
    assert not (tmp_path / "weights.safetensors").exists()
    train(ToyModel(), world, tmp_path, budget=1000, seed=0)
    (tmp_path / "whole").mkdir()
    train(ToyModel(), world, tmp_path / "whole", budget=1000, seed=0)
    cut, whole = (digest_of_file(folder / "weights.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert cut == whole
    assert [(row.stage, row.step) for row in read_log(tmp_path)] == [
        (row.stage, row.step) for row in read_log(tmp_path / "whole")
    ]


def test_a_checkpoint_of_another_network_is_refused_by_name(world: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(ToyModel(fail_at=31), world, tmp_path, budget=1000, seed=0, checkpoint_seconds=0)
    wider = ToyModel()
    wider.lines = [nn.Linear(1, 2), nn.Linear(1, 1)]
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: does not fit stage stage0 \(.*size mismatch"):
        train(wider, world, tmp_path, budget=1000, seed=0)


class TwoStepStage(ToyStage):
    """Steps on the line, then looks through it again, as a generator looks through the discriminator of its step."""

    ema_kimg, batch_size = 0.0, 10

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        ones = torch.ones(1, 1)
        with torch.no_grad():
            self.line(ones)
        optimiser_step(self.optimiser, 100 * self.line(ones).square().mean())
        weight = self.line.weight.detach().to(torch.bfloat16).double()
        return {"stale": (self.line(ones).double() - weight - self.line.bias.detach().double()).abs().mean().detach()}


def test_bfloat16_sees_the_weights_after_an_optimisers_step(world: Store, tmp_path: Path) -> None:
    """And what was cast without gradients before has gradients after."""
    line = nn.Linear(1, 1)
    nn.init.constant_(line.weight, 3.0)
    nn.init.constant_(line.bias, 0.0)
    stage = TwoStepStage(line)
    stage.optimiser = torch.optim.SGD(line.parameters(), 1e-3)
    stage.averaged = {}
    model = ToyModel(stages=1)
    model.lines = [line]
    model.stages = lambda data: [stage]  # type: ignore[method-assign]
    train(model, world, tmp_path, budget=10, seed=0, precision="bfloat16")
    assert abs(line.weight.item() - 3.0) > 0.1, "it learnt"
    assert read_log(tmp_path)[-1].losses["stale"] < 0.02


def test_weights_that_are_not_finite_are_never_kept(world: Store, tmp_path: Path) -> None:
    """The last update shows in no loss, yet it must not become a checkpoint or the final weights."""
    model = ToyModel(stages=1)
    [stage] = model.stages(world)
    step = stage.train_step

    def overflow(batch: Batch) -> Mapping[str, float | torch.Tensor]:
        losses = step(batch)
        if stage.steps == 50:
            with torch.no_grad():
                stage.line.weight.fill_(float("inf"))
        return losses

    stage.train_step = overflow
    model.stages = lambda data: [stage]
    with pytest.raises(UserError, match="stage stage0, step 49: a weight is not finite"):
        train(model, world, tmp_path, budget=500, seed=0)
    assert not (tmp_path / "weights.safetensors").exists()


TINY = ["--set", "generator_width=8", "--set", "discriminator_width=8",
        "--set", "text_encoder.char_cnn_rnn.channels=[8,8,8]", "--set", "text_encoder.char_cnn_rnn.recurrent_width=16",
        "--set", "text_encoder.char_cnn_rnn.image_width=8"]  # fmt: skip


def command(runs: Path) -> list[str]:
    return [sys.executable, "-m", "t2ibench.cli", "train", "text-dcgan", "--budget", "6k", "--runs", str(runs),
            "--checkpoint-seconds", "0", *TINY]  # fmt: skip


def test_killed_twice_the_weights_are_bit_identical(tmp_path: Path) -> None:
    """kill -9 in each of the two stages; the same command again."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for stage in ("text_encoder", "gan"):
        process = subprocess.Popen(command(tmp_path / "cut"), env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            logs = list((tmp_path / "cut").glob("*/train.jsonl"))
            if logs and logs[0].read_text().count(f'"{stage}"') > 10:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    for runs in ("cut", "whole"):
        subprocess.run(command(tmp_path / runs), env=environment, check=True, capture_output=True)
    [cut], [whole] = (list((tmp_path / runs).glob("*/weights.safetensors")) for runs in ("cut", "whole"))
    assert cut.parent.name == whole.parent.name
    assert digest_of_file(cut) == digest_of_file(whole)
    logs = [[{**json.loads(line), "seconds": 0} for line in (path.parent / "train.jsonl").read_text().splitlines()]
            for path in (cut, whole)]  # fmt: skip
    assert logs[0] == logs[1]


class ValidatingStage(ToyStage):
    """A toy that hears how many steps it has, and validates on held-out images."""

    total_steps = 1

    def validate(self, data: CaptionedDataset) -> Mapping[str, float]:
        return {"brightness": float(data.batch([0]).images.float().mean()), "weight": self.line.weight[0, 0].item()}


class ValidatingModel(ToyModel):
    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        self.made = [ValidatingStage(self.lines[0])]
        self.made[0].draws = False
        return self.made


def test_a_stage_hears_its_steps_and_validates_on_held_out_images_by_its_average(
    world: Store, held_out: Store, tmp_path: Path
) -> None:
    model = ValidatingModel(stages=1)
    asked: list[str] = []

    def prepared() -> Store:
        asked.append("held out")
        return held_out

    train(model, world, tmp_path, budget=400, seed=0, held_out=prepared)
    assert model.made[0].total_steps == 40 and asked == ["held out"]
    rows = [row for row in read_log(tmp_path) if "brightness" in row.losses]
    assert [row.images for row in rows] == [10, *range(50, 401, 50)]
    assert {row.losses["brightness"] for row in rows} == {float(held_out.batch([0]).images.float().mean())}
    assert rows[-1].losses["weight"] == pytest.approx(model.lines[0].weight[0, 0].item()), "the average is kept at last"
    (tmp_path / "toy").mkdir()
    train(ToyModel(), world, tmp_path / "toy", budget=100, seed=0, held_out=prepared)
    assert len(asked) == 1, "nothing is prepared for a stage that does not validate"
