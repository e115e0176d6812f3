"""The command line: one function a verb; it parses and calls the public function of the same name.

Nothing heavy is imported before a verb needs it. Results go to stdout, progress to stderr; a user's mistake
is one line on stderr (with --json an object on stdout) and exit code 2.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .errors import UserError, unknown
from .suite import plugins

if TYPE_CHECKING:
    from .eval.harness import Evaluated
    from .reports.records import Record
    from .suite.run import Request
    from .suite.spec import Evaluation

INTERRUPTED = 130
app = typer.Typer(
    help="Train, sample and score text-to-image models, from GANs to DALL-E.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
data_app = typer.Typer(help="Prepare and check captioned data.", no_args_is_help=True)
sweep_app = typer.Typer(help="Run every cell of a grid of models, data sets and seeds.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")

Model = Annotated[str, typer.Argument(help="A name from `list models`, module:attribute, or file.py:attribute.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN")]
DataName = Annotated[str, typer.Argument(help="A name from `list datasets`.", metavar="NAME")]
Data = Annotated[str, typer.Option("--data", help="A name from `list datasets`.")]
Root = Annotated[Path | None, typer.Option("--root", help="Where a data set lies that is in your files.")]
Preset = Annotated[str, typer.Option("--preset", help="A preset of the model, such as tiny, small or paper.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the training.")]
Budget = Annotated[str, typer.Option("--budget", help="Training images over all stages: 200k, 1M; 0 trains nothing.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Change a field of the config: field=value.")]
DrawSettings = Annotated[list[str] | None, typer.Option("--set", help="As sampling.temperature=0.8: draw so.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.", envvar="T2IBENCH_RUNS")]
Precision = Annotated[str | None, typer.Option("--precision", help="float32 or bfloat16; the device's by default.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; the fastest there is by default.")]
Split = Annotated[str, typer.Option("--split", help="Split whose captions are drawn.")]
Samples = Annotated[int, typer.Option("--samples", help="Images to draw for the scores.", min=2)]
Judges = Annotated[str | None, typer.Option("--judges", help="Names with commas; by default the data set's judge.")]
Probes = Annotated[bool, typer.Option("--probes/--no-probes", help="Ask the capability probes too.")]
TrainImages = Annotated[int | None, typer.Option("--train-images", help="Training images beside; 0: no floor.", min=0)]
Size = Annotated[int, typer.Option("--size", help="Side of the images in pixels.", min=16, max=1024)]
Sizes = Annotated[str, typer.Option("--size", help="Side in pixels, or sides from one decode: 64,128,256.")]
Checkpoint = Annotated[float, typer.Option("--checkpoint-seconds", help="Least time between checkpoints.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

SAMPLES = 2000
"""Images that a run is scored by, unless something else is asked for."""


def examples(*lines: str) -> str:
    """Return the examples under a verb's help."""
    return "\n\n".join(["Examples:", *lines])


@app.command("list", epilog=examples("t2ibench list", "t2ibench list models", "t2ibench list --json"))
def list_(
    kind: Annotated[str | None, typer.Argument(help="models, datasets, judges or metrics")] = None,
    as_json: Json = False,
) -> None:
    """List models, data sets, judges and metrics."""
    everything = plugins.listing()
    if kind is not None and kind not in everything:
        raise unknown("kind", kind, everything)
    chosen = {name: entries for name, entries in everything.items() if kind in (None, name)}
    if as_json:
        _print_json(chosen)
        return
    for name, entries in chosen.items():
        typer.echo(f"{name}:")
        for entry in entries:
            about = entry.get("paper") or entry.get("about") or ""
            typer.echo(f"  {entry['name']:<20} {about}")
            if presets := entry.get("presets"):
                typer.echo(f"  {'':<20} presets: {', '.join(presets)}")


@app.command(epilog=examples(
    "t2ibench describe text-dcgan", "t2ibench describe text-dcgan --preset paper --json",
    "t2ibench describe text-dcgan --set generator_width=64"))  # fmt: skip
def describe(model: Model, preset: Preset = "tiny", settings: Settings = None, as_json: Json = False) -> None:
    """Say what a model is made of: stages, networks, parameters, FLOPs an image."""
    from .suite import describe as describing
    from .suite.spec import parse_overrides

    found = describing.describe(model, preset, parse_overrides(settings or []))
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    typer.echo("\n".join(found.lines()))


@data_app.command("prepare", epilog=examples(
    "t2ibench data prepare scenes --size 32", "t2ibench data prepare cub-crop-code --root birds --size 64,128,256",
    "t2ibench data prepare imagefolder --root photos --size 128"))  # fmt: skip
def data_prepare(name: DataName, root: Root = None, size: Sizes = "64", as_json: Json = False) -> None:
    """Convert a data set once into memory-mapped stores, one a split, each with a data card (card.md)."""
    largest, *smaller = _sizes(size)
    stores = _prepared(plugins.find_dataset(name)(root), largest, smaller)
    if as_json:
        _print_json({split: {"images": len(store), "expected": store.expected, "digest": store.digest,
                             "folder": str(store.folder)} for split, store in stores.items()})  # fmt: skip
        return
    for split, store in stores.items():
        part = "" if store.expected in (None, len(store)) else f" of {store.expected:,} published"
        typer.echo(f"{split:<8} {len(store):>8,} images{part}  {store.digest[:12]}  {store.folder}")


@data_app.command("check", epilog=examples(
    "t2ibench data check scenes", "t2ibench data check emoji --json",
    "t2ibench data check imagefolder --root photos"))  # fmt: skip
def data_check(name: DataName, root: Root = None, size: Size = 64, as_json: Json = False) -> None:
    """Look for leaks between splits, duplicates, unreadable images; exit code 1 when splits leak, 2 after bad input."""
    from .datasets.audit import check
    from .datasets.captioned import Salvageable, Skipping

    source, unreadable = plugins.find_dataset(name)(root), list[str]()
    try:
        stores = _prepared(source, size)
    except UserError:
        if not isinstance(source, Salvageable):
            raise
        sound, unreadable = source.salvaged()
        if not unreadable or not sound.splits:
            raise
        stores = _prepared(sound, size)
    report = check(stores, unreadable, source.skipped if isinstance(source, Skipping) else {})
    error = f"{len(unreadable)} unreadable images, the first is {unreadable[0]}" if unreadable else ""
    if as_json:
        _print_json(report.to_json() | ({"error": error} if error else {}))
    else:
        typer.echo(report.to_text())
        if error:
            typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1 if report.leaks else 2 if error else 0)


@data_app.command("reference", epilog=examples(
    "t2ibench data reference scenes --size 32", "t2ibench data reference cub --root birds --judges inception,clip",
    "t2ibench data reference emoji --size 64 --split val --out references"))  # fmt: skip
def data_reference(
    name: DataName, root: Root = None, size: Size = 64, split: Split = "test", judges: Judges = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for one .npz a judge.")] = Path("references"),
    device: Device = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Save the real images of a split as judges see them, to score images elsewhere with `score --reference`."""
    from .suite.scoring import save_references

    _use(device)
    with _bars() as watch:
        files = save_references(name, root, size, _evaluation(name, split, SAMPLES, judges), out, watch)
    _print_json({"references": list(map(str, files))}) if as_json else typer.echo("\n".join(map(str, files)))


@app.command(epilog=examples(
    "t2ibench train text-dcgan", "t2ibench train text-dcgan --data emoji --preset small --budget 1M",
    "t2ibench train text-dcgan --set objective=gan-cls --seed 1"))  # fmt: skip
def train(
    model: Model, data: Data = "scenes", preset: Preset = "tiny", root: Root = None, seed: Seed = 0,
    budget: Budget = "200k", settings: Settings = None, precision: Precision = None, device: Device = None,
    runs: Runs = Path("runs"), checkpoint_seconds: Checkpoint = 60.0, as_json: Json = False,
) -> None:  # fmt: skip
    """Train a model; the same command again goes on where it was cut off."""
    from .suite.trained import open_run, train_run

    _use(device)
    request = _request(model, data, preset, root, seed, budget, settings, precision, runs, checkpoint_seconds)
    with _bars() as watch:
        opened = open_run(request, watch)
        costs = train_run(opened, watch)
    if as_json:
        _print_json({"run": str(opened.folder), "stages": [dataclasses.asdict(cost) for cost in costs]})
        return
    for cost in costs:
        typer.echo(f"{cost.stage}: {cost.images:,} images, {cost.steps:,} steps, {cost.seconds:.0f} s")
    typer.echo(str(opened.folder))


@app.command(epilog=examples(
    't2ibench sample RUN "a red circle above a blue square"', 't2ibench sample RUN "a star" "two hearts" --n 8',
    't2ibench sample RUN "a ring" --best-of 512 --keep 32',
    't2ibench sample RUN "two panels: the same ring below" --image-prompt ring.png --keep-rows 16'))  # fmt: skip
def sample(
    run: RunFolder, prompts: Annotated[list[str], typer.Argument(help="Captions to draw.")],
    n: Annotated[int | None, typer.Option("--n", help="Images a caption; by default 16.", min=1)] = None,
    best_of: Annotated[int | None, typer.Option("--best-of", help="Candidates to choose from.", min=1)] = None,
    keep: Annotated[int | None, typer.Option("--keep", help="With --best-of: images to keep.", min=1)] = None,
    image_prompt: Annotated[Path | None, typer.Option("--image-prompt", help="An image to go on with.")] = None,
    keep_rows: Annotated[int, typer.Option("--keep-rows", help="Rows of it given, at the model's size.", min=0)] = 0,
    keep_columns: Annotated[int, typer.Option("--keep-columns", help="Columns given, from the left.", min=0)] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="Folder for PNGs, metadata.jsonl, grid.png.")] = Path("samples"),
    settings: DrawSettings = None,
    device: Device = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Draw captions with a trained run: PNGs, their captions, and a grid."""
    from .suite.sampling import IMAGES, Wish, sample_run
    from .suite.spec import parse_overrides

    if keep is not None and best_of is None:
        raise UserError(f"--keep {keep}: goes with --best-of, the candidates that it is chosen from")
    if n is not None and best_of is not None:
        raise UserError(f"--n {n}: goes without --best-of; --keep says how many of the {best_of} candidates are kept")
    wanted = n or IMAGES if best_of is None else keep or min(IMAGES, best_of)
    wish = Wish(n=wanted, best_of=best_of or 0, seed=seed, image=image_prompt, keep_rows=keep_rows,
                keep_columns=keep_columns, settings=parse_overrides(settings or []))  # fmt: skip
    _use(device)
    with _bars() as watch:
        sample_run(run, prompts, wish, out=out, watch=watch)
    _print_json({"out": str(out), "images": wanted * len(prompts)}) if as_json else typer.echo(str(out / "grid.png"))


@app.command(epilog=examples(
    "t2ibench score RUN", "t2ibench score RUN --judges scenes,efficientnet-lite0 --samples 5000",
    "t2ibench score RUN --set sampling.guidance=2",
    "t2ibench score --images drawn --data emoji",
    "t2ibench score --images drawn --captions prompts.txt --judges clip"))  # fmt: skip
def score(
    run: Annotated[Path | None, typer.Argument(help="The folder of a run.", metavar="RUN")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="A folder of captioned images instead.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="With --images: the data set to compare with.")] = None,
    root: Root = None,
    reference: Annotated[Path | None, typer.Option("--reference", help="Or a file of `data reference`.")] = None,
    captions: Annotated[Path | None, typer.Option(
        "--captions", help="With --images: .txt of a caption a line, or .jsonl; else they lie in the folder.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="With --images: side; theirs by default.", min=16)] = None,
    judges: Judges = None, split: Split = "test",
    samples: Annotated[int | None, typer.Option("--samples", help="With RUN: images to draw.", min=2)] = None,
    train_images: TrainImages = None, probes: Probes = True, settings: DrawSettings = None, device: Device = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a run, or any folder of captioned images against a data set."""
    from .suite.scoring import Compared, open_evaluation, score_images, score_run
    from .suite.spec import parse_overrides
    from .suite.trained import refuse_unfinished, reopen_run

    if (run is None) == (images is None):
        raise UserError("score: give either the folder of a run, or --images DIR with --data NAME")
    if run is not None and (data, root, size, reference, captions) != (None,) * 5:
        raise UserError("score RUN: --data, --root, --reference, --captions and --size go with --images")
    if images is not None and (samples is not None or settings):
        raise UserError("score --images: --samples and --set go with a run")
    if images is not None and (data, reference, judges) == (None, None, None):
        raise UserError("score --images: give --data NAME or --reference FILE to compare with, or only --judges")
    if reference is not None and judges is not None:
        raise UserError("score --reference: its judge is the one that saw it; leave out --judges")
    _use(device)
    with _bars() as watch:
        if run is not None:
            opened = reopen_run(run, watch)
            refuse_unfinished(opened)
            evaluation = _evaluation(opened.passed["data"], split, samples or SAMPLES, judges, probes, train_images)
            changes = parse_overrides(settings or [])
            record = score_run(opened, open_evaluation(opened, evaluation, watch), watch, changes)
            _show_scores(record, opened.folder, as_json)
        elif images is not None:
            compared = Compared(data=data, root=root, reference=reference, captions=captions)
            evaluation = _evaluation(data or "", split, SAMPLES, judges, train_images=train_images)
            found = score_images(images, compared, image_size=size, watch=watch, evaluation=evaluation)
            _show_scores(found, None, as_json)


@app.command(epilog=examples(
    "t2ibench run text-dcgan", "t2ibench run text-dcgan --data emoji --preset small",
    "t2ibench run my_model.py:MyModel --data imagefolder --root photos"))  # fmt: skip
def run(
    model: Model, data: Data = "scenes", preset: Preset = "tiny", root: Root = None, seed: Seed = 0,
    budget: Budget = "200k", settings: Settings = None, judges: Judges = None, split: Split = "test",
    samples: Samples = SAMPLES, probes: Probes = True, precision: Precision = None, device: Device = None,
    runs: Runs = Path("runs"), checkpoint_seconds: Checkpoint = 60.0, as_json: Json = False,
) -> None:  # fmt: skip
    """Train, draw and score, end to end; the same command again resumes, or has nothing to do."""
    from .suite import run as running

    _use(device)
    request = _request(model, data, preset, root, seed, budget, settings, precision, runs, checkpoint_seconds)
    with _bars() as watch:
        finished = running.run(request, _evaluation(data, split, samples, judges, probes), watch)
    _show_scores(finished.record, finished.folder, as_json)


@sweep_app.command("run", epilog=examples(
    "t2ibench sweep run demo.toml", "t2ibench sweep run demo.toml --runs runs/demo",
    "t2ibench sweep run demo.toml --json"))  # fmt: skip
def sweep_run(
    file: Annotated[Path, typer.Argument(help="A TOML file of models, presets, datasets, seeds.", metavar="FILE.toml")],
    runs: Runs = Path("runs"), device: Device = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Run every cell of a sweep, one after another; cells that were run before cost nothing."""
    from .suite.sweep import Cell, plan_sweep, run_sweep

    _use(device)
    cells = plan_sweep(file, runs)

    def begin(number: int, cell: Cell) -> None:
        request = cell.request
        about = f"{request.model}/{request.preset} on {request.data}, seed {request.seed}, {request.budget:,} images"
        typer.echo(f"run {number + 1} of {len(cells)}: {about}", err=True)

    with _bars() as watch:
        outcomes = run_sweep(cells, watch, begin)
    for note in dict.fromkeys(note for outcome in outcomes for note in outcome.notes):
        names = [outcome.folder.name for outcome in outcomes if outcome.folder and note in outcome.notes]
        typer.echo(f"note: {note}" + ("" if len(names) == len(outcomes) else f" ({', '.join(names)})"), err=True)
    failed = [outcome for outcome in outcomes if outcome.error]
    if as_json:
        _print_json({"runs": [str(outcome.folder) for outcome in outcomes if outcome.folder],
                     "errors": [outcome.error for outcome in failed]})  # fmt: skip
    for outcome in outcomes:
        if not as_json:
            typer.echo(str(outcome.folder) if outcome.folder else f"failed: {outcome.error}")
    raise typer.Exit(1 if failed else 0)


@app.command(epilog=examples(
    "t2ibench report", "t2ibench report runs/text-dcgan-tiny-* --out report", "t2ibench report --json"))  # fmt: skip
def report(
    folders: Annotated[list[Path] | None, typer.Argument(help="Runs; by default all.", metavar="RUNS")] = None,
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option("--out", help="Folder for the page and the tables.")] = Path("report"),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write the comparison: one page, and its tables as Markdown, CSV and JSON."""
    from .reports import page

    chosen = folders or sorted(path.parent for path in runs.glob("*/record.json"))
    if not chosen:
        raise UserError(f"{runs}: no finished runs there; `t2ibench run` makes one")
    written = page.report(chosen, out)
    if as_json:
        _print_json({key: str(value) for key, value in dataclasses.asdict(written).items()})
        return
    typer.echo(written.markdown.read_text(encoding="utf-8"))
    typer.echo(str(written.page))


@app.command(epilog=examples(
    "t2ibench compare text-dcgan df-gan", "t2ibench compare df-gan/tiny df-gan/small --runs runs/demo",
    "t2ibench compare runs/A runs/B --json"))  # fmt: skip
def compare(
    a: Annotated[str, typer.Argument(help="A run's folder, or model or model/preset: all its seeds.", metavar="A")],
    b: Annotated[str, typer.Argument(help="What to compare it with.", metavar="B")],
    runs: Runs = Path("runs"), as_json: Json = False,
) -> None:  # fmt: skip
    """Say in words and numbers which of two runs or methods is better, and how surely."""
    from .reports import answer, comparison

    found = comparison.compare(comparison.chosen_runs(a, runs), comparison.chosen_runs(b, runs))
    if as_json:
        _print_json(found.document() | {"words": answer.words(found)})
        return
    typer.echo("\n".join([answer.words(found), "", *answer.sides(found), "", *answer.lines(found)]))


@app.command(epilog=examples("t2ibench doctor", "t2ibench doctor --json", "T2IBENCH_WEIGHTS=weights t2ibench doctor"))
def doctor(as_json: Json = False) -> None:
    """Say what this machine can and cannot do, and why."""
    from .suite import doctor as examining

    findings = examining.doctor()
    if as_json:
        _print_json({"findings": [dataclasses.asdict(finding) for finding in findings]})
        return
    for finding in findings:
        typer.echo(f"{'yes' if finding.usable else 'no':<4} {finding.what:<28} {finding.why}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"t2ibench {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; exit with 2 after a user's mistake, in one line."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(" ".join(str(error).split()))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if line := error.format_message():
            _fail(line)
        sys.exit(2)
    if code == INTERRUPTED:
        typer.echo("interrupted; the same command goes on where it was cut off", err=True)
    sys.exit(code)


def _fail(line: str) -> None:
    if "--json" in sys.argv:
        typer.echo(json.dumps({"error": line}))
    else:
        typer.echo(f"error: {line}", err=True)
    sys.exit(2)


def _use(device: str | None) -> None:
    """Make a device PyTorch's default for this process."""
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"--device {chosen}: expected cpu or cuda")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {chosen}: not usable here; `t2ibench doctor` says what is") from error
    if chosen != torch.get_default_device().type:
        torch.set_default_device(chosen)


def _bars() -> Any:
    from .suite.progress import Bars

    return Bars()


def _request(
    model: str, data: str, preset: str, root: Path | None, seed: int, budget: str, settings: list[str] | None,
    precision: str | None, runs: Path, checkpoint_seconds: float,
) -> "Request":  # fmt: skip
    from .suite.run import Request
    from .suite.spec import parse_budget, parse_overrides

    return Request(model=model, data=data, preset=preset, root=root, seed=seed, budget=parse_budget(budget),
                   settings=parse_overrides(settings or []), precision=precision, runs=runs,
                   checkpoint_seconds=checkpoint_seconds)  # fmt: skip


def _evaluation(data: str, split: str, samples: int, judges: str | None, probes: bool = True,
                train_images: int | None = None) -> "Evaluation":  # fmt: skip
    from .suite.spec import Evaluation

    default = Evaluation.of(data)
    names = tuple(name.strip() for name in judges.split(",")) if judges else default.judges
    train = default.train_images if train_images is None else train_images
    return dataclasses.replace(default, split=split, images=samples, judges=names, probes=probes, train_images=train)


def _sizes(text: str) -> list[int]:
    """Return the sides in `64` or `64,128,256`, the largest first."""
    try:
        sizes = sorted({int(part) for part in text.split(",")}, reverse=True)
    except ValueError as error:
        raise UserError(f"--size {text!r}: expected a side in pixels, or sides such as 64,128,256") from error
    if not 16 <= sizes[-1] <= sizes[0] <= 1024:
        raise UserError(f"--size {text}: expected sides from 16 to 1024 pixels")
    return sizes


def _prepared(source: Any, size: int, smaller: Sequence[int] = ()) -> dict[str, Any]:
    from .suite.trained import prepared

    with _bars() as watch:
        return {split: prepared(source, split, size, watch, smaller) for split in source.splits}


def _show_scores(found: "Record | Evaluated", folder: Path | None, as_json: bool) -> None:
    from .reports import terminal
    from .reports.records import Record, scores_json

    probes = found.probes if isinstance(found, Record) else ()
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        controls = {name: scores_json(scores) for name, scores in found.controls.items()}
        _print_json({"run": None if folder is None else str(folder), "scores": scores_json(found.scores),
                     "controls": controls, "probes": [dataclasses.asdict(probe) for probe in probes]})  # fmt: skip
        return
    for line in terminal.lines(found.scores, found.controls, probes):
        typer.echo(line)
    if folder is not None:
        typer.echo(str(folder))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    main()
