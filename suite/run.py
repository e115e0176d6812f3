"""One run, end to end: data -> training -> drawn images -> judges -> scores -> the record.

Each step is kept under a key that contains the one before it, so the same command again goes on where it
was cut off, or finds that there is nothing to do.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..baselines.interface import TextToImage
from ..dalle.image_tokenizer import DrawsByCodes
from ..datasets.captioned import Source
from ..datasets.images import first_side
from ..datasets.loader import Augmentation, stored_size
from ..datasets.store import Store, prepare
from ..errors import UserError, unknown
from ..eval.harness import Evaluated, choose_prompts, evaluate, repeated_prompts
from ..eval.judges import Judge, Training, refuse_own_choice
from ..eval.reconstruction import reconstruction_notes
from ..files import digest_of, read_json, seed_of, write_json, write_text
from ..reports.records import SCHEMA, Record, StageCost, load, save
from .checkpoint import load_tokenizers, load_weights
from .drawing import draw, save_gallery, save_grid
from .environment import describe_environment
from .plugins import absolute_name, find_dataset, find_judge, find_model, find_preset
from .spec import Evaluation, TrainSpec, resolve_config
from .training import CHECKPOINT_SECONDS, Watch, silent, train

GRID_CAPTIONS = 32
EMPTY: Mapping[str, Any] = {}
EVALUATION_VERSION = 2
"""Raised when the harness or a metric changes what it says of the same images."""


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


class Finished(NamedTuple):
    """A run that was trained and scored."""

    folder: Path
    record: Record


def run(request: Request, evaluation: Evaluation | None = None, watch: Watch = silent) -> Finished:
    """Train, draw and score; return the run's folder and the record that lies in it as `record.json`.

    What the evaluation needs is looked for before the training, so that a mistake costs no training.
    """
    opened = open_run(request, watch)
    panel = open_evaluation(opened, evaluation or default_evaluation(request.data), watch)
    train_run(opened, watch)
    return Finished(opened.folder, score_run(opened, panel, watch))


def default_evaluation(data: str) -> Evaluation:
    """Return the protocol that a data set is scored by when nothing else is asked for."""
    return Evaluation(judges=("scenes",) if data == "scenes" else ("in-domain",))


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
        passed = document["passed"]
        request = Request(**{**passed, "root": passed["root"] and Path(passed["root"]),
                             "runs": folder.resolve().parent})  # fmt: skip
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'run.json'}: not written by this version ({error}); run it again") from error
    reopened = open_run(request, watch)
    if reopened.folder.name != folder.resolve().name:
        raise UserError(f"{folder}: its data, model or version changed since; a new run is {reopened.folder.name}")
    return reopened


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


def load_model(opened: Run, settings: Mapping[str, Any] = EMPTY) -> TextToImage:
    """Return the run's model with its trained weights, to draw with `settings` of its config's `sampling`.

    Raises UserError for any other setting: those decided the training.
    """
    for name in settings:
        if not name.startswith("sampling."):
            raise UserError(f"--set {name}: decides the training, which is over; expected sampling.FIELD")
    if not (opened.folder / "training.json").exists():
        raise UserError(f"{opened.folder}: not trained to the end; the command that began it goes on")
    model = opened.new_model()
    load_tokenizers(opened.folder / "tokenizers.json", model)
    load_weights(opened.folder / "weights.safetensors", model.networks())
    model.config = resolve_config(model.config, settings)
    return model


@dataclass(frozen=True, kw_only=True)
class OpenEvaluation:
    """An evaluation with what it needs at hand: the judges, and the real images they compare with."""

    evaluation: Evaluation
    judges: tuple[Judge, ...]
    data: Store

    def protocol(self) -> dict[str, Any]:
        """Return everything that decides the scores of given weights, JSON-able."""
        return {**dataclasses.asdict(self.evaluation), "judges": list(self.evaluation.judges),
                "judge_ids": [judge.id for judge in self.judges], "version": EVALUATION_VERSION}  # fmt: skip


def open_evaluation(opened: Run, evaluation: Evaluation, watch: Watch = silent) -> OpenEvaluation:
    """Open the judges and the split that an evaluation names; raise UserError when one is not to be had."""
    data = opened.store(evaluation.split, watch)
    if len(data) < 2:
        raise UserError(
            f"{data.name}: its split {data.split!r} has 1 image, 2 or more are needed to compare with; choose another "
            "--split, or put more images into the folder of this one"
        )
    judges = open_judges(evaluation.judges, opened.source, opened.spec.image_size, watch)
    return OpenEvaluation(evaluation=evaluation, judges=judges, data=data)


def open_judges(names: Sequence[str], source: Source, image_size: int, watch: Watch) -> tuple[Judge, ...]:
    """Open judges by name; one that learns does so from the source's train split."""

    def held_out() -> Store | None:
        return prepared(source, "val", image_size, watch) if "val" in source.splits else None

    openers = [(name, find_judge(name)) for name in names]
    return tuple(
        opener(Training(train=partial(prepared, source, "train", image_size, watch), held_out=held_out,
                        progress=partial(watch, f"train the judge {name}")))
        for name, opener in openers
    )  # fmt: skip


def score_run(
    opened: Run, panel: OpenEvaluation, watch: Watch = silent, settings: Mapping[str, Any] = EMPTY
) -> Record:
    """Draw the protocol's captions, have the judges look, and write the record; keep each for the next call.

    `settings` are fields of the config's `sampling` to draw with instead of the run's.
    """
    spec = opened.spec.to_json()
    split = panel.evaluation.split
    spec |= {"data": opened.spec.data | {split: panel.data.digest}, "evaluation": panel.protocol()}
    if settings:
        spec["evaluation"] = spec["evaluation"] | {"drawn_with": dict(settings)}
    with locked(opened.folder):
        kept = opened.folder / "scores" / digest_of([SCHEMA, spec])[:12]
        if not (kept / "record.json").exists():
            save(kept, _score(opened, panel, spec, kept / "gallery", watch, settings))
        record = load(kept)
        if not (opened.folder / "record.json").exists() or load(opened.folder) != record:
            save(opened.folder, record)
        return record


def _score(
    opened: Run, panel: OpenEvaluation, spec: dict[str, Any], gallery: Path, watch: Watch, settings: Mapping[str, Any]
) -> Record:
    model = load_model(opened, settings)
    prompts = choose_prompts(panel.data, panel.evaluation.images, panel.evaluation.seed)
    drawn = draw(model, prompts, opened.folder / "samples", watch, settings)
    again = draw(model, repeated_prompts(prompts), opened.folder / "samples", watch, settings)
    evaluated = evaluate(
        torch.from_numpy(drawn.images), [prompt.caption for prompt in prompts], panel.data, panel.judges, watch,
        described=[prompt.image_id for prompt in prompts], repeated=torch.from_numpy(again.images),
    )  # fmt: skip
    changes = [f"drawn with {name}={value}" for name, value in settings.items()]
    codes = []
    if isinstance(model, DrawsByCodes):
        codes = reconstruction_notes(model.image_tokenizer(), panel.data, panel.judges)
    parameters = {
        name: sum(parameter.numel() for parameter in network.parameters())
        for name, network in model.networks().items()
    }
    return Record(
        spec=spec, passed=dict(opened.passed), scores=evaluated.scores, notes=(*evaluated.notes, *codes, *changes),
        stages=read_costs(opened.folder), parameters=parameters, environment=describe_environment(),
        sample_images_per_second=drawn.images_per_second,
        gallery=save_gallery(opened.folder, gallery, drawn.images, prompts),
    )  # fmt: skip


def score_images(
    folder: Path, *, data: str, root: Path | None, image_size: int | None, evaluation: Evaluation,
    watch: Watch = silent,
) -> Evaluated:  # fmt: skip
    """Score a folder of captioned images, drawn by any system, against a split of a data set.

    The images are those of all the folder's splits, each with its first caption, at `image_size`, by default the
    shorter side of the first. The split is the evaluation's, or the data set's only one. Raises UserError for images
    that were chosen by one of the judges.
    """
    drawn: Source = find_dataset("imagefolder")(folder)
    size = image_size or first_side(folder)
    chunks = [chunk for split in drawn.splits for chunk in drawn.chunks(split, size)]
    images = np.concatenate([chunk.images for chunk in chunks])
    captions = [captions for chunk in chunks for captions in chunk.captions]
    if missing := sum(not own for own in captions):
        raise UserError(f"{folder}: {missing} of {len(images)} images have no caption to be scored against")
    source: Source = find_dataset(data)(root)
    split = evaluation.split if len(source.splits) > 1 else source.splits[0]
    reference = prepared(source, split, size, watch)
    judges = open_judges(evaluation.judges, source, size, watch)
    refuse_own_choice(judges, ranked_by(folder), str(folder))
    return evaluate(torch.from_numpy(images), [own[0] for own in captions], reference, judges, watch)


def ranked_by(folder: Path) -> set[str]:
    """Return the fingerprints of the networks that chose the images in a folder, as `sample --best-of` notes them."""
    file = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return {row["ranked_by"] for row in rows if isinstance(row.get("ranked_by"), str)}
