"""The training loop, the only one: seeds, budget, logging, checkpoints, averages, the guard, grids and resume.

It knows no loss. Everything random in step t is drawn from (seed, stage, t), so nothing random needs saving.
"""

import contextlib
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..baselines.interface import Scheduled, Stage, TextToImage, Validates
from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation, Loader
from ..errors import UserError
from ..files import seed_of, write_json
from ..reports.records import StageCost
from .checkpoint import load_state, load_tokenizers, load_weights, save_state, save_tokenizers, save_weights

LOG_ROWS = 200
GRIDS = 8
CHECKPOINT_SECONDS = 60.0


class Watch(Protocol):
    """Hears of progress; the command line shows it as a bar."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hear that of `what`, `done` images of `total` are done; `note` is shown beside the bar."""
        ...


def silent(what: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


@dataclass(kw_only=True)
class Position:
    """Where a training stands: what a checkpoint holds besides the stage's own state."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    log_bytes: int = 0


class Average:
    """Exponential moving average of networks, buffers too; half-life as in StyleGAN2, shorter at the start."""

    RAMP = 0.05

    def __init__(self, networks: Mapping[str, nn.Module], kimg: float) -> None:
        self.networks = networks
        self.half_life = 1000 * kimg
        self.copies = {name: copy.deepcopy(network).requires_grad_(False) for name, network in networks.items()}
        self._look_up()

    @torch.no_grad()
    def update(self, batch_size: int, images_seen: int) -> None:
        """Move the averages towards the networks after a step on `batch_size` images."""
        half_life = min(self.half_life, self.RAMP * images_seen)
        decay = 0.5 ** (batch_size / half_life) if half_life else 0.0
        averages, currents = zip(*self.moving, strict=True)
        torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in self.counting:
            average.copy_(current)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the networks for a while."""
        kept = {name: copy.deepcopy(network.state_dict()) for name, network in self.networks.items()}
        self.settle()
        try:
            yield
        finally:
            for name, network in self.networks.items():
                network.load_state_dict(kept[name])

    def settle(self) -> None:
        """Put the averages into the networks for good."""
        self._check()
        for name, network in self.networks.items():
            network.load_state_dict(self.copies[name].state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        self._check()
        return {name: network.state_dict() for name, network in self.copies.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages."""
        for name, network in self.copies.items():
            network.load_state_dict(state[name])
        self._look_up()

    def _look_up(self) -> None:
        # Not at every update: to walk the modules takes a hundredth of a small step.
        pairs = [pair for name, network in self.networks.items()
                 for pair in zip(_tensors(self.copies[name]), _tensors(network), strict=True)]  # fmt: skip
        self.moving = [pair for pair in pairs if pair[1].is_floating_point()]
        self.counting = [pair for pair in pairs if not pair[1].is_floating_point()]

    def _check(self) -> None:
        """Raise UserError where a network no longer holds the tensors that were looked up."""
        now = {id(tensor) for network in self.networks.values() for tensor in _tensors(network)}
        if now != {id(current) for _, current in self.moving + self.counting}:
            raise UserError(
                f"{', '.join(self.networks)}: a training step replaced a parameter or buffer, whose average therefore "
                "stayed behind; change it in place (`copy_`)"
            )


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def train(
    model: TextToImage,
    data: CaptionedDataset,
    folder: Path,
    *,
    budget: int,
    seed: int,
    precision: str = "float32",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    watch: Watch = silent,
    draw_grid: Callable[[int], None] = lambda images_seen: None,
    augmentation: Augmentation = "none",
    held_out: Callable[[], CaptionedDataset] | None = None,
) -> tuple[StageCost, ...]:
    """Teach `model` from `data` for `budget` images over all its stages; go on where an earlier call was cut off.

    `draw_grid` is called some times in a stage that draws, with the averages in place; as often, a stage that
    validates does so on what `held_out` returns. With an `augmentation` that crops, `data` is prepared at
    `loader.stored_size` of the images that the stages see.

    Leaves in `folder`: `tokenizers.json` of a model that has some, `train.jsonl`, `weights.safetensors` and last
    `training.json`, the costs; until then `checkpoint.safetensors` and the networks after each finished stage.
    Raises UserError when a loss is not finite, and of a budget above 0 too small for a batch in every stage.
    """
    tokenizers = folder / "tokenizers.json"
    if tokenizers.exists():
        load_tokenizers(tokenizers, model)
    stages = list(model.stages(data))
    save_tokenizers(tokenizers, model)
    shares = [stage.share for stage in stages]
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise UserError(f"the stages' shares of the budget are {shares}, expected none below 0 and the sum 1")
    _check_budget(budget, stages)
    checkpoint = folder / "checkpoint.safetensors"
    state = load_state(checkpoint) if checkpoint.exists() else {}
    start = Position(**state.get("position", {}))
    costs: list[StageCost] = [StageCost(**cost) for cost in state.get("costs", [])]
    if start.stage:
        load_weights(folder / f"stage-{start.stage - 1}.safetensors", model.networks())
    for stage in stages[start.stage :]:
        loop = StageLoop(
            stage, data, folder, position=start, steps=int(budget * stage.share) // stage.batch_size, seed=seed,
            precision=precision, costs=costs, watch=watch, checkpoint_seconds=checkpoint_seconds,
            draw_grid=draw_grid, augmentation=augmentation, held_out=held_out,
        )  # fmt: skip
        if "stage" in state:
            loop.restore(state)
        costs.append(loop.run())
        save_weights(folder / f"stage-{start.stage}.safetensors", model.networks())
        start = Position(stage=start.stage + 1, log_bytes=start.log_bytes)
        state = {"position": vars(start), "costs": [vars(cost) for cost in costs]}
        save_state(checkpoint, state)
    save_weights(folder / "weights.safetensors", model.networks())
    write_json(folder / "training.json", [vars(cost) for cost in costs])
    checkpoint.unlink(missing_ok=True)
    for number in range(len(stages)):
        (folder / f"stage-{number}.safetensors").unlink(missing_ok=True)
    return tuple(costs)


def _check_budget(budget: int, stages: Sequence[Stage]) -> None:
    """Refuse a budget of which a stage with a share would get no step; 0 trains nothing, and is meant to."""
    least, name = max((math.ceil(stage.batch_size / stage.share), stage.name) for stage in stages if stage.share)
    if 0 < budget < least:
        raise UserError(f"budget {budget:,}: not one batch for stage {name}; expected 0, or {least:,} images or more")


class StageLoop:
    """The loop over one stage's steps."""

    def __init__(
        self, stage: Stage, data: CaptionedDataset, folder: Path, *, position: Position, steps: int, seed: int,
        precision: str, costs: list[StageCost], watch: Watch, checkpoint_seconds: float,
        draw_grid: Callable[[int], None], augmentation: Augmentation,
        held_out: Callable[[], CaptionedDataset] | None = None,
    ) -> None:  # fmt: skip
        self.stage, self.folder, self.steps, self.seed = stage, folder, steps, seed
        self.costs, self.position, self.watch = costs, position, watch
        self.images_before = sum(cost.images for cost in costs)
        self.average = Average(stage.averaged, stage.ema_kimg) if stage.averaged else None
        self.loader = Loader(data, batch_size=stage.batch_size, seed=seed, name=stage.name, augmentation=augmentation)
        self.device = torch.get_default_device()
        self.autocast = precision == "bfloat16"
        self.log_every = max(1, steps // LOG_ROWS)
        self.grid_every = max(1, steps // GRIDS)
        self.checkpoint_seconds, self.draw_grid = checkpoint_seconds, draw_grid
        self.held_out = held_out() if held_out is not None and isinstance(stage, Validates) else None
        self.window: list[Mapping[str, float | torch.Tensor]] = []
        if isinstance(stage, Scheduled):
            stage.total_steps = max(1, steps)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where the checkpoint stood; raise UserError when it does not fit the stage."""
        try:
            self.stage.load_state_dict(state["stage"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{self.folder / 'checkpoint.safetensors'}: does not fit stage {self.stage.name} ({reason}); another "
                "version wrote it: go on with that one, or remove the folder to begin anew"
            ) from error

    def run(self) -> StageCost:
        """Take the remaining steps and return what the whole stage took."""
        self._open_log()
        size = self.stage.batch_size
        self.watch(f"train {self.stage.name}", self.position.step * size, self.steps * size)
        started, saved = time.monotonic() - self.position.seconds, time.monotonic()
        steps = range(self.position.step, self.steps)
        for step, batch in zip(steps, self.loader.batches(steps.start, steps.stop), strict=True):
            self.window.append(self._step(step, batch.to(self.device)))
            self.position.step = step + 1
            if (step + 1) % self.log_every == 0 or step + 1 == self.steps:
                self.position.seconds = time.monotonic() - started
                self._log()
            if (step + 1) % self.grid_every == 0 or step == 0:
                self._look((step + 1) * size)
            if not self.window and time.monotonic() - saved > self.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self.log.close()
        self._check_state(self.stage.state_dict())
        if self.average:
            self.average.settle()
        return StageCost(
            stage=self.stage.name, images=self.steps * size, steps=self.steps, seconds=self.position.seconds
        )

    def _step(self, step: int, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        # `torch.manual_seed` notes the stack for devices that are not in use: one or two hundredths of a small step.
        seed_all = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed_all(seed_of(self.seed, "step", self.stage.name, step))
        # Without the cache of casts: it would outlive an optimiser's step inside the stage's, and keep the old weights.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            losses = self.stage.train_step(batch)
        if self.average:
            self.average.update(len(batch), (step + 1) * len(batch))
        return losses

    def _open_log(self) -> None:
        """Cut off what was logged after the checkpoint."""
        self.log = open(self.folder / "train.jsonl", "ab")
        self.log.truncate(self.position.log_bytes)

    def _log(self) -> None:
        """Write the means of the losses since the last row; stop when one is not finite."""
        rows = [{name: float(value) for name, value in losses.items()} for losses in self.window]
        for offset, losses in enumerate(rows):
            self._guard(self.position.step - len(rows) + offset, losses)
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        self._write(means)
        size = self.stage.batch_size
        note = "  ".join(f"{name} {value:.3g}" for name, value in means.items())
        self.watch(f"train {self.stage.name}", self.position.step * size, self.steps * size, note)
        self.window = []

    def _write(self, losses: Mapping[str, float]) -> None:
        row = {"stage": self.stage.name, "step": self.position.step,
               "images": self.images_before + self.position.step * self.stage.batch_size,
               "seconds": round(self.position.seconds, 3), "losses": losses}  # fmt: skip
        self.log.write((json.dumps(row) + "\n").encode())
        self.log.flush()
        self.position.log_bytes = self.log.tell()

    def _guard(self, step: int, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise self._not_finite(step, ", ".join(bad))

    def _check_state(self, state: Any) -> None:
        """Stop before weights that are not finite are kept; the last update shows in no loss yet."""
        if isinstance(state, torch.Tensor):
            if state.is_floating_point() and not bool(state.isfinite().all()):
                raise self._not_finite(self.position.step - 1, "a weight")
        elif isinstance(state, Mapping | list | tuple):
            for entry in state.values() if isinstance(state, Mapping) else state:
                self._check_state(entry)

    def _not_finite(self, step: int, what: str) -> UserError:
        checkpoint = self.folder / "checkpoint.safetensors"
        last = (f"the last good checkpoint is {checkpoint}, from which the same command goes on"
                if checkpoint.exists() else "there is no checkpoint yet")  # fmt: skip
        other = " or --precision float32" if self.autocast else ""
        return UserError(
            f"stage {self.stage.name}, step {step}: {what} is not finite; {last}. Begun again it meets the same "
            f"numbers; a lower learning rate{other} makes a new run"
        )

    def _save(self) -> None:
        os.fsync(self.log.fileno())
        state = {"position": vars(self.position), "stage": self.stage.state_dict(),
                 "costs": [vars(cost) for cost in self.costs]}  # fmt: skip
        self._check_state(state["stage"])
        if self.average:
            state["average"] = self.average.state_dict()
        save_state(self.folder / "checkpoint.safetensors", state)

    def _look(self, images_seen: int) -> None:
        """Draw a grid and validate, as far as the stage can, with the averages in place."""
        if not self.stage.draws and self.held_out is None:
            return
        with self.average.in_place() if self.average else contextlib.nullcontext():
            if self.stage.draws:
                self.draw_grid(self.images_before + images_seen)
            if self.held_out is not None and isinstance(self.stage, Validates):
                self._write(self.stage.validate(self.held_out))
