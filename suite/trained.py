"""A request resolved to a model, its data and a folder, and trained there; the same request again goes on."""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..baselines.interface import TextToImage
from ..datasets.captioned import Source
from ..datasets.loader import Augmentation, stored_size
from ..datasets.store import Store, prepare
from ..errors import UserError, unknown
from ..eval.prompts import choose_prompts
from ..files import canonical_json, read_json, seed_of, write_json, write_text
from ..reports.records import StageCost
from .checkpoint import load_tokenizers, load_weights
from .drawing import save_grid
from .plugins import absolute_name, find_dataset, find_model, find_preset
from .spec import TrainSpec, resolve_config
from .training import CHECKPOINT_SECONDS, Watch, silent, train

GRID_CAPTIONS = 32
EMPTY: Mapping[str, Any] = {}
CHANGED = {"code": "file of the model", "config": "set of the model's settings", "data": "state of the data"}
"""What a key of a run's specification is called when it is no longer the same."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for: `run`, `train`, and every cell of a sweep."""

    model: str
    data: str = "scenes"
    preset: str = "tiny"
    root: Path | None = None
    seed: int = 0
    budget: int = 200_000
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    """`float32` or `bfloat16`; None takes bfloat16 where the device has fast units for it, so on CUDA."""
    runs: Path = Path("runs")
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Run:
    """A request resolved: what is to be trained, on what, and where it lies."""

    spec: TrainSpec
    config: Any
    make: Any
    source: Source
    folder: Path
    passed: Mapping[str, Any]
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def store(self, split: str, watch: Watch) -> Store:
        """Return a split of the run's data, prepared at the run's image size."""
        return prepared(self.source, split, self.spec.image_size, watch)

    def new_model(self) -> TextToImage:
        """Return the model, untrained, its weights drawn from the run's seed."""
        torch.manual_seed(seed_of(self.spec.seed, "init"))
        model: TextToImage = self.make(self.config)
        return model


def open_run(request: Request, watch: Watch = silent) -> Run:
    """Resolve a request: find model, preset and data, prepare the train split, and name the folder."""
    model = find_model(request.model)
    config = resolve_config(find_preset(model, request.preset), request.settings)
    source: Source = find_dataset(request.data)(request.root)
    data = prepared(source, "train", stored_size(config.image_size, augmentation_of(config)), watch)
    precision = request.precision or ("bfloat16" if torch.get_default_device().type == "cuda" else "float32")
    if precision not in ("float32", "bfloat16"):
        raise unknown("precision", precision, ("float32", "bfloat16"))
    spec = TrainSpec(
        model=model.name, code=model.code, preset=request.preset, config=dataclasses.asdict(config),
        dataset=source.name, image_size=config.image_size, data={"train": data.digest}, seed=request.seed,
        budget=request.budget, precision=precision,
    )  # fmt: skip
    passed = {"model": absolute_name(request.model), "data": absolute_name(request.data), "preset": request.preset,
              "root": None if request.root is None else str(request.root.resolve()), "seed": request.seed,
              "budget": request.budget, "settings": dict(request.settings), "precision": precision}
    return Run(spec=spec, config=config, make=model.make, source=source, folder=request.runs / spec.folder_name,
               passed=passed, checkpoint_seconds=request.checkpoint_seconds)  # fmt: skip


def augmentation_of(config: Any) -> Augmentation:
    """Return what a model's config says of augmentation: none where it has no such field."""
    augmentation: Augmentation = getattr(config, "augmentation", "none")
    return augmentation


def reopen_run(folder: Path, watch: Watch = silent) -> Run:
    """Open a run by its folder; raise UserError when it is none, or when what it was made from has changed."""
    if not (folder / "run.json").exists():
        raise UserError(f"{folder}: not the folder of a run; `run` and `train` print theirs")
    document = read_json(folder / "run.json")
    try:
        passed, spec = document["passed"], dict(document["spec"])
        request = Request(**{**passed, "root": passed["root"] and Path(passed["root"]),
                             "runs": folder.resolve().parent})  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'run.json'}: not written by this version ({error}); run it again") from error
    reopened = open_run(request, watch)
    now = json.loads(canonical_json(reopened.spec.to_json()))
    if changed := sorted(key for key in now.keys() | spec.keys() if now.get(key) != spec.get(key)):
        raise UserError(
            f"{folder}: made of another {' and '.join(CHANGED.get(key, key) for key in changed)} than is here now; "
            f"a new run is {reopened.folder.name}"
        )
    return dataclasses.replace(reopened, folder=folder.resolve())


def prepared(
    source: Source, split: str, image_size: int, watch: Watch = silent, smaller: Sequence[int] = ()
) -> Store:
    """Return a prepared split, showing progress while it is prepared; raise UserError when there is none such."""
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split!r}; it has {', '.join(source.splits)}")
    what, total = f"prepare {source.name}/{split}", source.size(split)
    return prepare(source, split, image_size, lambda done: watch(what, done, total), smaller)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; raise UserError when one holds it already."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another process is working on this run") from error
        yield


def train_run(opened: Run, watch: Watch = silent) -> tuple[StageCost, ...]:
    """Train unless that was done before; return what each stage took."""
    if (opened.folder / "training.json").exists():
        return read_costs(opened.folder)
    with locked(opened.folder):
        if (opened.folder / "training.json").exists():
            return read_costs(opened.folder)
        augmentation = augmentation_of(opened.config)
        data = prepared(opened.source, "train", stored_size(opened.spec.image_size, augmentation), watch)
        model = opened.new_model()
        prompts = choose_prompts(data, GRID_CAPTIONS, seed=0)
        grids = opened.folder / "grids"

        def draw_grid(images_seen: int) -> None:
            images = model.sample([p.caption for p in prompts], seeds=[p.seed for p in prompts])
            save_grid(grids / f"{images_seen:09d}.png", images.numpy())

        write_json(opened.folder / "run.json", {"spec": opened.spec.to_json(), "passed": opened.passed})
        write_text(grids / "captions.txt", "".join(f"{p.caption}\n" for p in prompts))
        return train(
            model, data, opened.folder, budget=opened.spec.budget, seed=opened.spec.seed,
            precision=opened.spec.precision, checkpoint_seconds=opened.checkpoint_seconds, watch=watch,
            draw_grid=draw_grid, augmentation=augmentation,
            held_out=partial(opened.store, "val", watch) if "val" in opened.source.splits else None,
        )  # fmt: skip


def read_costs(folder: Path) -> tuple[StageCost, ...]:
    """Return what each stage of a finished training took."""
    return tuple(StageCost(**cost) for cost in read_json(folder / "training.json"))


def refuse_unfinished(opened: Run) -> None:
    """Raise UserError for a run that was not trained to the end."""
    if not (opened.folder / "training.json").exists():
        raise UserError(f"{opened.folder}: not trained to the end; begin it again by the same command, which goes on")


def load_model(opened: Run, settings: Mapping[str, Any] = EMPTY) -> TextToImage:
    """Return the run's model with its trained weights, to draw with `settings` of its config's `sampling`.

    Raises UserError for any other setting: those decided the training.
    """
    for name in settings:
        if not name.startswith("sampling."):
            raise UserError(f"--set {name}: decides the training, which is over; expected sampling.FIELD")
    refuse_unfinished(opened)
    model = opened.new_model()
    load_tokenizers(opened.folder / "tokenizers.json", model)
    load_weights(opened.folder / "weights.safetensors", model.networks())
    model.config = resolve_config(model.config, settings)
    return model
