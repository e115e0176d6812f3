"""Scoring, after the training: draw the protocol's captions, have judges look, write the record; or score a folder."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ..baselines.interface import TextToImage
from ..dalle.image_tokenizer import DrawsByCodes
from ..datasets.captioned import Source
from ..datasets.image_files import ImageFile, ImageFiles
from ..datasets.imagefolder import captioned_by, open_source
from ..datasets.images import size_of
from ..datasets.store import Store
from ..datasets.user_files import parse_json, read_text
from ..errors import UserError
from ..eval import probes, scene_reader
from ..eval.harness import Drawn, Evaluated, Known, evaluate
from ..eval.judges import Judge, Reader, Training, refuse_own_choice
from ..eval.prompts import Prompt, choose_prompts, repeated_prompts
from ..eval.reconstruction import reconstruction
from ..eval.reference import Reference, load_reference, reference, save_reference
from ..files import digest_of, digest_of_file, whole_file
from ..reports import items
from ..reports.records import SCHEMA, Record, load, overfitting_notes, read_log, save
from .checkpoint import load_tokenizers
from .cost import measure
from .describe import describe
from .drawing import draw, save_gallery, save_nearest
from .environment import describe_environment
from .plugins import find_dataset, find_judge
from .probing import probe
from .spec import Evaluation, resolve_config
from .trained import Run, load_model, locked, prepared, read_costs, refuse_unfinished
from .training import Watch, silent

EMPTY: Mapping[str, Any] = {}
BESIDE = (items.FILE, "nearest.png")
"""What lies beside a record: what single images scored, and drawn images above the training images nearest to them."""
EVALUATION_VERSION = 4
"""Raised when the harness or a metric changes what it says of the same images."""


@dataclass(frozen=True, kw_only=True)
class OpenEvaluation:
    """An evaluation with what it needs at hand: the judges, and the real images they compare with."""

    evaluation: Evaluation
    judges: tuple[Judge | Reader, ...]
    data: Store

    def protocol(self) -> dict[str, Any]:
        """Return everything that decides the scores of given weights, JSON-able; the probes are no scores."""
        asked = dataclasses.asdict(self.evaluation)
        del asked["probes"]
        return {**asked, "judges": list(self.evaluation.judges),
                "judge_ids": [judge.id for judge in self.judges], "version": EVALUATION_VERSION}  # fmt: skip


def open_evaluation(opened: Run, evaluation: Evaluation, watch: Watch = silent) -> OpenEvaluation:
    """Open the judges and the split that an evaluation names; raise UserError when one is not to be had."""
    data = opened.store(evaluation.split, watch)
    if len(data) < 2:
        raise UserError(
            f"{data.name}: its split {data.split!r} has 1 image, 2 or more are needed to compare with; choose another "
            "--split, or put more images into the folder of this one"
        )
    judges = open_judges(evaluation.judges, taught_by(opened.source, opened.spec.image_size, watch), watch)
    return OpenEvaluation(evaluation=evaluation, judges=judges, data=data)


def open_judges(names: Sequence[str], training: Training, watch: Watch) -> tuple[Judge | Reader, ...]:
    """Open judges and readers by name; one that learns does so by `training`."""
    openers = [(name, find_judge(name)) for name in names]
    return tuple(
        opener(dataclasses.replace(training, progress=partial(watch, f"train the judge {name}")))
        for name, opener in openers
    )


def taught_by(source: Source, image_size: int, watch: Watch) -> Training:
    """Return what a judge learns from: the source's train split; its accuracy is taken on val."""

    def held_out() -> Store | None:
        return prepared(source, "val", image_size, watch) if "val" in source.splits else None

    return Training(train=partial(prepared, source, "train", image_size, watch), held_out=held_out)


def _untaught() -> NoReturn:
    raise UserError("--judges: names one that is taught on a data set; give that by --data")


def known(data: Store, watch: Watch, at_most: int | None = None) -> Known:
    """Return what gives the real images of `data`, or some of them, as a judge sees them."""
    return lambda judge: reference(judge, data, watch, at_most)


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
        refuse_unfinished(opened)
        weights = digest_of_file(opened.folder / "weights.safetensors")
        asked = [probes.VERSION, scene_reader.VERSION] if panel.evaluation.probes else None
        kept = opened.folder / "scores" / digest_of([SCHEMA, spec, weights, asked])[:12]
        if not (kept / "record.json").exists():
            save(kept, _score(opened, panel, spec, weights, kept, watch, settings))
        record = load(kept)
        if not _is_current(opened.folder, record):
            # First of all, so that no record ever lies beside what belongs to another.
            (opened.folder / "record.json").unlink(missing_ok=True)
            for name in BESIDE:
                (opened.folder / name).unlink(missing_ok=True)
                if (kept / name).exists():
                    with whole_file(opened.folder / name) as temporary:
                        shutil.copy(kept / name, temporary)
            save(opened.folder, record)
        return record


def _is_current(folder: Path, record: Record) -> bool:
    """Return whether the record in a folder is this one; one of another version is none."""
    try:
        return load(folder) == record
    except UserError:
        return False


def _score(
    opened: Run, panel: OpenEvaluation, spec: dict[str, Any], weights: str, kept: Path, watch: Watch,
    settings: Mapping[str, Any],
) -> Record:  # fmt: skip
    model = load_model(opened, settings)
    prompts = choose_prompts(panel.data, panel.evaluation.images, panel.evaluation.seed)
    draw_with = partial(draw, folder=opened.folder / "samples", watch=watch, settings=settings)
    drawn = draw_with(model, weights, prompts)
    again = draw_with(model, weights, repeated_prompts(prompts))
    beside = panel.data.split != "train" and panel.evaluation.train_images > 0
    train = opened.store("train", watch) if beside else None
    evaluated = evaluate(
        _drawn(panel.data, prompts, drawn.images, again.images,
               lambda: torch.from_numpy(draw_with(_untrained(opened, settings), "untrained", prompts).images)),
        panel.judges, known(panel.data, watch),
        None if train is None else known(train, watch, panel.evaluation.train_images), watch,
    )  # fmt: skip
    items.save_items(kept / items.FILE, items.Items(
        caption_ids=tuple(prompt.caption_id for prompt in prompts), values=evaluated.values,
        image_ids=tuple(prompt.image_id for prompt in prompts),
    ))  # fmt: skip
    if train is not None and evaluated.nearest:
        save_nearest(kept / "nearest.png", drawn.images, evaluated.nearest, train)
    notes = [*evaluated.notes, *overfitting_notes(read_log(opened.folder)),
             *([] if train is None else class_notes(train, panel.data)),
             *(f"drawn with {name}={value}" for name, value in settings.items())]  # fmt: skip
    controls = dict(evaluated.controls)
    if isinstance(model, DrawsByCodes):
        looking = [judge for judge in panel.judges if not isinstance(judge, Reader)]
        through_codes = reconstruction(model.image_tokenizer(), panel.data, looking)
        controls["reconstructed"], notes = through_codes.scores, notes + through_codes.notes
    return Record(
        spec=spec, passed=dict(opened.passed), scores=evaluated.scores, controls=controls,
        notes=tuple(notes), stages=read_costs(opened.folder), parameters=parameters_of(model),
        environment=describe_environment(), sample_images_per_second=drawn.images_per_second,
        cost=cost_of(opened, model, prompts, settings),
        probes=probe(opened, model, panel.judges, watch) if panel.evaluation.probes else (),
        gallery=save_gallery(opened.folder, kept / "gallery", drawn.images, prompts),
    )  # fmt: skip


def _drawn(
    data: Store, prompts: Sequence[Prompt], images: NDArray[np.uint8], again: NDArray[np.uint8],
    untrained: Callable[[], torch.Tensor],
) -> Drawn:  # fmt: skip
    places = {name: at for at, name in enumerate(data.ids)}
    return Drawn(
        images=torch.from_numpy(images), captions=[prompt.caption for prompt in prompts],
        image_ids=[prompt.image_id for prompt in prompts], repeated=torch.from_numpy(again), untrained=untrained,
        references=[data.captions(places[prompt.image_id]) for prompt in prompts],
    )  # fmt: skip


def _untrained(opened: Run, settings: Mapping[str, Any]) -> TextToImage:
    """Return the run's model as it was before its training, but for the words it knows and how it is to draw."""
    model = opened.new_model()
    load_tokenizers(opened.folder / "tokenizers.json", model)
    model.config = resolve_config(model.config, settings)
    return model


def cost_of(
    opened: Run, model: TextToImage, prompts: Sequence[Prompt], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Return what drawing takes, measured here, and the FLOPs of an image where they can be counted."""
    passed = {**opened.passed["settings"], **settings}
    flops = describe(opened.passed["model"], opened.spec.preset, passed).flops_per_image
    return measure(model, prompts) | ({} if flops is None else {"flops_per_image": float(flops)})


def class_notes(train: Store, test: Store) -> list[str]:
    """Return a line if no class of `test` is in `train`, as in zero-shot splits."""
    trained, tested = (set(data.labels(np.arange(len(data))).tolist()) for data in (train, test))
    if not trained or not tested or trained & tested:
        return []
    return [f"real images: {train.split} and {test.split} have no class in common, so what real images of "
            f"{train.split} score is no floor"]  # fmt: skip


def parameters_of(model: TextToImage) -> dict[str, int]:
    """Return the number of parameters of each network."""
    networks = model.networks().items()
    return {name: sum(parameter.numel() for parameter in network.parameters()) for name, network in networks}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a folder of images is compared with: a data set, a file of real images as a judge saw them, or nothing."""

    data: str | None = None
    root: Path | None = None
    """Of the data set, where its source lies in the user's files."""
    reference: Path | None = None
    """As `data reference` writes it; with a data set, that is only what a judge is taught on."""
    captions: Path | None = None
    """Captions of the images, where the folder holds none: a line each, or rows as in `metadata.jsonl`."""


def score_images(
    folder: Path, compared: Compared, *, image_size: int | None, evaluation: Evaluation, watch: Watch = silent
) -> Evaluated:
    """Score a folder of captioned images, drawn by any system.

    The images are those of all the folder's splits, each with its first caption, at `image_size`, by default the
    shorter side of the first by name. They are compared with the evaluation's split of a data set, or its only one.
    Raises UserError for images that were chosen by one of the judges.
    """
    found = captioned_by(folder, compared.captions) if compared.captions else open_source(folder)
    # In order of names, as IS cuts them in parts by their places; splits are of no account here.
    files = sorted((file for split in found.splits for file in found.files[split]), key=lambda file: file.name)
    given = None if compared.reference is None else load_reference(compared.reference)
    size = image_size or (given.about["image_size"] if given else min(size_of(files[0].path)))
    if given is not None and size != given.about["image_size"]:
        raise UserError(f"--size {size}: the reference {compared.reference} is of {given.about['image_size']} px")
    drawn, choosers = _from_files(folder, files, size), ranked_by(folder)
    training, names = Training(train=_untaught, held_out=lambda: None), evaluation.judges
    real: Known | None = None
    train: Known | None = None
    notes = _resized(files, size)
    if compared.data is not None:
        source: Source = find_dataset(compared.data)(compared.root)
        split = evaluation.split if len(source.splits) > 1 else source.splits[0]
        training = taught_by(source, size, watch)
        if given is None:
            test = prepared(source, split, size, watch)
            real = known(test, watch)
            if "train" in source.splits and split != "train" and evaluation.train_images:
                seen = prepared(source, "train", size, watch)
                train, notes = known(seen, watch, evaluation.train_images), notes + class_notes(seen, test)
    if given is not None and compared.reference is not None:
        names, real = (given.about["judge"],), partial(_same_judge, given, compared.reference)
    judges = open_judges(names, training, watch)
    refuse_own_choice(judges, choosers, str(folder))
    evaluated = evaluate(drawn, judges, real, train, watch)
    return dataclasses.replace(evaluated, notes=(*evaluated.notes, *notes))


def _resized(files: Sequence[ImageFile], size: int) -> list[str]:
    """Return a line if images are not of the size at which they are looked at."""
    sizes = [size_of(file.path) for file in files]
    others = [own for own in sizes if own != (size, size)]
    if not others:
        return []
    width, height = others[0]
    return [f"{len(others):,} of {len(sizes):,} images are not of {size} x {size} pixels, but of {width} x {height} "
            "and the like; their centre squares were resized, which moves every score"]  # fmt: skip


def _from_files(folder: Path, files: Sequence[ImageFile], size: int) -> Drawn:
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8, device="cpu")
    captions: list[list[str]] = []
    for chunk in ImageFiles("drawn", {"all": files}).chunks("all", size):
        images[len(captions) : len(captions) + len(chunk.images)] = torch.from_numpy(chunk.images)
        captions += chunk.captions
    if missing := sum(not own for own in captions):
        raise UserError(f"{folder}: {missing} of {len(images)} images have no caption to be scored against")
    firsts = [own[0] for own in captions]
    # Nothing says which real image a foreign system's caption is of: equal texts are taken for one.
    return Drawn(images=images, captions=firsts, image_ids=firsts, references=captions)


def _same_judge(given: Reference, path: Path, judge: Judge) -> Reference:
    if judge.id != given.about["judge_id"]:
        raise UserError(f"{path}: seen by {given.about['judge_id']}, but judge {judge.name!r} is {judge.id} here")
    return given


def save_references(
    data: str, root: Path | None, image_size: int, evaluation: Evaluation, out: Path, watch: Watch = silent
) -> list[Path]:
    """Write the real images of the evaluation's split as each judge sees them, as `.npz` files; return these."""
    source: Source = find_dataset(data)(root)
    real = prepared(source, evaluation.split, image_size, watch)
    judges = open_judges(evaluation.judges, taught_by(source, image_size, watch), watch)
    files = []
    for judge in judges:
        if not isinstance(judge, Reader):
            files.append(out / f"{source.name}-{real.split}-{image_size}-{judge.name}.npz")
            save_reference(files[-1], reference(judge, real, watch))
    return files


def ranked_by(folder: Path) -> set[str]:
    """Return the fingerprints of the networks that chose the images in a folder, as `sample --best-of` notes them."""
    folder = folder.resolve()
    file = folder / "metadata.jsonl"
    lines = read_text(folder, file).split("\n") if file.exists() else []
    rows = [parse_json(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    return {row["ranked_by"] for row in rows if isinstance(row, dict) and isinstance(row.get("ranked_by"), str)}
