"""Reports: the arithmetic of the tables, what they refuse to mix, and a page that stands alone."""

import base64
import csv
import io
import json
import math
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from left_runs import SPEC, fid, leave, precision, read
from matplotlib.figure import Figure
from parsed_page import Parsed
from PIL import Image

from t2ibench.errors import UserError
from t2ibench.reports import plots, sheets, tables, wording
from t2ibench.reports.page import MAX_CAPTIONS, Report, command, report
from t2ibench.reports.records import GalleryItem, LogRow, Record, Score, load, save


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# --- tables


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path: Path) -> None:
    folders = [leave(tmp_path / f"r{seed}", [fid(value)], seed=seed) for seed, value in enumerate((1, 2, 6))]
    (table,) = read(folders)
    (row,) = table.rows
    cell = row.cells["fid@scenes"]
    assert (cell.values, cell.mean) == ((1, 2, 6), 3)
    assert cell.sd == pytest.approx(math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2), rel=1e-15)
    assert row.facts == {
        "budget": 1000, "seeds": 3, "generator_parameters": 1_500_000, "parameters": 2_000_000,
        "training_images": 1000, "training_minutes": 2.0, "sample_images_per_second": 100.0,
        "training_images_per_second": 1000 / 120, "latency_p50_ms": None, "latency_p95_ms": None,
        "peak_memory_mib": None, "joules_per_image": None}
    shown = sheets.markdown([table]).splitlines()
    assert "| toy/tiny | 1k | 3 | 3.000 ± 2.646 | 1.5M | 2.0 | 100 |" in shown
    assert "| toy/tiny | 2M | 1,000 | 8.3 |" in shown


@pytest.mark.parametrize(("parameters", "expected"), [
    ({"stage1_generator": 3, "stage2_generator": 4, "text_encoder": 5}, 7), ({"encoder": 3, "decoder": 4}, None),
])  # fmt: skip
def test_all_generators_are_counted(tmp_path: Path, parameters: dict[str, int], expected: int | None) -> None:
    folder = leave(tmp_path / "r", [fid(1)])
    save(folder, replace(load(folder), parameters=parameters))
    (table,) = read([folder])
    assert table.rows[0].facts["generator_parameters"] == expected


def test_one_seed_shows_its_own_standard_error_marked_as_such(tmp_path: Path) -> None:
    (table,) = read([leave(tmp_path / "r", [precision(12.5), fid(3)])])
    texts = [entry.whole for entry in sheets.main(table).lines[0].entries]
    assert texts[2:4] == ["3.000", "12.50 ± 0.25†"]
    assert any(note.startswith("† One seed") for note in wording.notes(table))
    assert not any("standard deviation" in note for note in wording.notes(table))


@pytest.mark.parametrize("changed", [
    {"dataset": "emoji"}, {"image_size": 64}, {"data": {"train": "cd" * 32}},
    {"evaluation": {**SPEC["evaluation"], "images": 2000}},
    {"evaluation": {**SPEC["evaluation"], "split": "val"}},
    {"evaluation": {**SPEC["evaluation"], "judges": ["in-domain"]}},
    {"evaluation": {**SPEC["evaluation"], "judge_ids": ["joint:ab:bilinear-64"]}},
])
def test_protocols_never_share_a_table(tmp_path: Path, changed: dict[str, Any]) -> None:
    found = read([leave(tmp_path / "a", [fid(1)]), leave(tmp_path / "b", [fid(2)], seed=1, **changed)])
    assert sorted(table.rows[0].cells["fid@scenes"].values for table in found) == [(1,), (2,)]
    assert len({(table.title, wording.protocol_line(table)) for table in found}) == 2


def test_sample_sizes_never_share_a_column(tmp_path: Path) -> None:
    (table,) = read([leave(tmp_path / "a", [fid(1, n=500)]), leave(tmp_path / "b", [fid(2, n=400)], seed=1)])
    headings = [heading.text for heading in sheets.main(table).headings]
    assert headings[2:4] == ["FID@scenes (n=400)", "FID@scenes (n=500)"]
    assert table.rows[0].cells["fid@scenes n=400"].values == (None, 2)
    assert sheets.main(table).lines[0].entries[2].whole == "2.000 (1 of 2 seeds)"


def test_namesakes_are_told_apart_by_the_settings_that_differ(tmp_path: Path) -> None:
    configs = [{"width": width, "text": {"depth": depth}} for width, depth in ((8, 1), (8, 2), (9, 2))]
    (table,) = read(leave(tmp_path / str(i), config=config, seed=seed)
                    for i, (config, seed) in enumerate([(c, s) for c in configs for s in (0, 1)]))
    assert [row.method for row in table.rows] == [
        "toy/tiny (text.depth=1, width=8)", "toy/tiny (text.depth=2, width=8)",
        "toy/tiny (text.depth=2, width=9)"]
    assert all(row.seeds == [0, 1] for row in table.rows)


def test_settings_that_were_asked_for_are_part_of_the_name(tmp_path: Path) -> None:
    """The side of the images is not: it stands above the table."""
    passed = {"settings": {"text.depth": "2", "image_size": "32"}}
    config = {"width": 8, "text": {"depth": 2}, "image_size": 32}
    (table,) = read([leave(tmp_path / "a", config=config, passed=passed), leave(tmp_path / "b", model="other")])
    assert [row.method for row in table.rows] == ["other/tiny", "toy/tiny (text.depth=2)"]


def test_a_budget_is_a_row_and_none_is_the_untrained_network(tmp_path: Path) -> None:
    (table,) = read([leave(tmp_path / "a", budget=200_000), leave(tmp_path / "b", budget=0)])
    assert [(row.method, wording.budget(row)) for row in table.rows] == [
        ("toy/tiny", "0 (untrained)"), ("toy/tiny", "200k")]
    assert "Budget 0 is the untrained network." in wording.notes(table)


def test_order_and_repetition_of_folders_change_nothing(tmp_path: Path) -> None:
    folders = [leave(tmp_path / f"{model}-{seed}-{budget}", [fid(seed + budget), precision(seed)],
                     model=model, seed=seed, budget=budget)
               for model in ("b", "a") for seed in (2, 10, 1) for budget in (50, 1000)]
    expected = read(folders)
    assert [row.seeds for row in expected[0].rows] == [[1, 2, 10]] * 4
    for trial in range(5):
        mixed = folders + folders[:trial]
        random.Random(trial).shuffle(mixed)
        assert tables.document(read(mixed)) == tables.document(expected)
        assert tables.csv(read(mixed)) == tables.csv(expected)


def test_a_copied_run_is_no_replicate(tmp_path: Path) -> None:
    first = leave(tmp_path / "a", [fid(1)])
    shutil.copytree(first, tmp_path / "copy")
    (table,) = read([first, tmp_path / "copy"])
    assert table.rows[0].cells["fid@scenes"].values == (1,)
    assert table.repeats == ("copy",)
    assert any("copy" in note for note in wording.notes(table))


@pytest.mark.parametrize(("seeds", "claims_none"), [(3, True), (4, False)])
def test_few_seeds_claim_no_significance(tmp_path: Path, seeds: int, claims_none: bool) -> None:
    (table,) = read(leave(tmp_path / str(seed), [fid(seed)], seed=seed) for seed in range(seeds))
    assert any("No significance" in note for note in wording.notes(table)) is claims_none


def replicated(folder: Path, seeds: dict[str, int], far: float = 100.0) -> list[Path]:
    """Leave runs of some models with so many seeds; each model's FID is `far` above that of the one before."""
    noise = random.Random(0)
    return [leave(folder / f"{model}-{seed}", [fid(far * place + noise.random())], model=model, seed=seed)
            for place, (model, count) in enumerate(seeds.items()) for seed in range(count)]


def test_methods_that_can_be_told_apart_have_no_letter_in_common(tmp_path: Path) -> None:
    folders = replicated(tmp_path, {"c": 5, "b": 5, "a": 5, "few": 3})
    folders += [leave(tmp_path / f"d{seed}", [fid(100 + 0.3 * seed)], model="d", seed=seed) for seed in range(5)]
    written = report(folders, tmp_path / "out")
    letters = {"c/tiny": "a", "b/tiny": "b", "d/tiny": "b", "a/tiny": "c", "few/tiny": None}
    (table,) = read(folders)
    assert {row.method: row.cells["fid@scenes"].groups for row in table.rows} == letters
    (found,) = json.loads(written.json.read_text(encoding="utf-8"))["tables"]
    assert {row["method"]: row["scores"]["fid@scenes"]["groups"] for row in found["rows"]} == letters
    lines = csv_rows(written.csv.read_text(encoding="utf-8"))
    assert {row["method"]: row["fid@scenes groups"] or None for row in lines} == letters
    page = Parsed(written.page.read_text(encoding="utf-8"))
    assert [text for tag, text in page.text if tag == "sup"] == ["c", "b", "a", "b"]
    shown, _ = written.markdown.read_text(encoding="utf-8").split("### More")
    assert [re.findall(r" \[(\w+)\] ", line) for line in shown.splitlines() if line.startswith("| d/")] == [["b"]]
    said = wording.notes(table)
    assert sum(note.startswith("Letters: rows with one in common cannot be told apart") for note in said) == 1
    assert "Scores without a letter have too few seeds: nothing is claimed of them." in said
    assert not any("No significance" in note for note in said)


@pytest.mark.parametrize(("seeds", "said"), [
    ({"a": 4, "b": 4}, None), ({"a": 3, "b": 9}, "No significance is claimed: some rows have fewer than 4 seeds"),
    ({"a": 4, "b": 4, "c": 4}, "exact tests of 3 rows in all pairs cannot reach p = 0.05 (Holm) with these seeds, "
                               "however far the rows are apart; 5 seeds each can."),
])  # fmt: skip
def test_letters_are_shown_where_the_seeds_suffice_and_else_how_many_would(
    tmp_path: Path, seeds: dict[str, int], said: str | None
) -> None:
    (table,) = read(replicated(tmp_path, seeds))
    letters = [cell.groups for row in table.rows for cell in row.cells.values()]
    assert letters == (["a", "b"] if said is None else [None] * len(seeds))
    claims = [note for note in wording.notes(table) if "significance" in note or "Letters" in note]
    assert len(claims) == 1
    assert said is None or said in claims[0]


def test_the_csv_says_how_sure_a_score_is_by_seeds_or_else_by_images(tmp_path: Path) -> None:
    sure = Score(metric="kid", judge="scenes", value=1, stderr=0.25, n=500, higher_is_better=False)
    folders = [leave(tmp_path / "a", [sure])]
    folders += [leave(tmp_path / f"b{seed}", [replace(sure, value=seed)], model="b", seed=seed) for seed in range(2)]
    columns = ("kid@scenes", "kid@scenes sd", "kid@scenes stderr", "kid@scenes seeds")
    assert {row["method"]: tuple(row[column] for column in columns) for row in csv_rows(tables.csv(read(folders)))} == {
        "toy/tiny": ("1.0", "", "0.25", "1"), "b/tiny": ("0.5", str(math.sqrt(0.5)), "", "2")
    }


def test_records_that_disagree_on_what_is_better_are_refused(tmp_path: Path) -> None:
    other = Score(metric="fid", judge="scenes", value=1, stderr=None, n=500, higher_is_better=True)
    with pytest.raises(UserError, match=r"/b: says of fid@scenes"):
        read([leave(tmp_path / "a", [fid(1)]), leave(tmp_path / "b", [other], model="other", seed=1)])


def test_no_runs_is_a_plain_error() -> None:
    with pytest.raises(UserError, match="got none"):
        tables.load_runs([])


@pytest.mark.parametrize(("key", "label"), [
    ("fid@scenes", "FID@scenes"), ("is@scenes", "IS@scenes"), ("clip_score@scenes", "CLIP score@scenes"),
    ("r_precision@scenes", "R-precision@scenes"), ("fid@inception", "FID"), ("is@inception", "IS"),
    ("clip_score@clip", "CLIP score"), ("fid@clip", "FID@clip"), ("r_precision@clip", "R-precision@clip"),
    ("kid@inception", "KID@inception"), ("fid@inception n=10", "FID (n=10)"), ("fid_infinity@a", "FID∞@a"),
    ("all@reader", "All right@reader"), ("colour@reader", "Colour@reader"), ("bleu_4@captioner", "BLEU-4@captioner"),
    ("own@judge", "own@judge"),
])
def test_plain_names_are_for_the_standard_judges_alone(key: str, label: str) -> None:
    assert wording.label(key) == label


@pytest.mark.parametrize(("count", "text"), [
    (None, "–"), (0, "0"), (999, "999"), (1500, "1.5k"), (200_000, "200k"), (18_910_000, "18.9M"),
    (2e9, "2G"), (5e12, "5,000G"),
])
def test_counts_are_short(count: float | None, text: str) -> None:
    assert wording.short(count) == text


def test_markdown_keeps_its_columns_whatever_the_names(tmp_path: Path) -> None:
    (table,) = read(leave(tmp_path / str(i), config={"x": x}) for i, x in enumerate(("1|2\n<b>", "3")))
    first, second = sheets.markdown([table]).split("###")
    for shown in (first, second):
        rows = [line for line in shown.splitlines() if line.startswith("|")]
        assert len(rows) == 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
        assert "toy/tiny (x=1\\|2 &lt;b>)" in rows[2]


# --- plots


def log(stage: str, values: Sequence[float], start: int = 0) -> list[LogRow]:
    return [LogRow(stage=stage, step=step, images=start + 64 * step, seconds=0.0,
                   losses={"g": value, "d": -value}) for step, value in enumerate(values)]


def test_a_chart_a_stage_and_the_same_bytes_twice() -> None:
    before = dict(matplotlib.rcParams)
    curves = [plots.Curves(method="$_{$", log=log("text", [1, 2]) + log("gan", [3, math.nan, math.inf], 128)),
              plots.Curves(method="b", log=log("gan", [1.0])), plots.Curves(method="c", log=[])]
    charts = plots.loss_charts(curves)
    assert [chart.stage for chart in charts] == ["text", "gan"]
    assert "d, g" in charts[0].alt
    assert plots.loss_charts(curves) == charts
    assert dict(matplotlib.rcParams) == before
    assert plots.loss_charts([]) == []


def test_a_loss_that_is_nothing_throughout_is_left_out() -> None:
    row = LogRow(stage="gan", step=1, images=64, seconds=0.0, losses={"generator": 1.0, "penalty": 0.0})
    paid = replace(row, images=128, losses={"generator": 2.0, "penalty": 0.5})
    (without,) = plots.loss_charts([plots.Curves(method="m", log=[row, row])])
    (at_times,) = plots.loss_charts([plots.Curves(method="m", log=[row, paid])])
    assert "(generator)" in without.alt and "(generator, penalty)" in at_times.alt


def test_long_logs_of_many_runs_stay_small() -> None:
    noise = np.random.default_rng(0).normal(size=5000).tolist()
    (chart,) = plots.loss_charts([plots.Curves(method=f"m{i % 7}", log=log("gan", noise)) for i in range(42)])
    assert len(chart.svg) < 200_000


def test_the_point_from_which_a_model_overfits_is_marked() -> None:
    line = plots._line("m", log("prior", [3.0, 2.0, 1.0, 2.0, math.nan]), "g")
    for loss, marks in (("image_validation", [(0.128, 1.0)]), ("image", [])):
        axes = Figure().add_subplot()
        plots._draw(axes, loss, [line], 2, {"m": ("red", "-")})
        dots = [dot for dot in axes.get_lines() if dot.get_marker() == "o"]
        assert [(float(dot.get_xdata()[0]), float(dot.get_ydata()[0])) for dot in dots] == marks  # type: ignore[index]


def test_the_untrained_networks_validation_does_not_flatten_the_rest() -> None:
    line = plots._line("m", log("prior", [7.0, 2.0, 1.5, 1.0, 1.2]), "g")
    for loss, first in (("image_validation", 2.0), ("image", 7.0)):
        axes = Figure().add_subplot()
        plots._draw(axes, loss, [line], 99, {"m": ("red", "-")})
        assert np.max(axes.get_lines()[0].get_ydata()) == first


def test_thinning_keeps_the_mean_and_skips_what_is_not_finite() -> None:
    line = plots._line("m", log("gan", [0.0, 2.0, math.nan, 1.0] * 245 + [math.inf] * 20), "g")
    thin = plots._thinned(line, 50)
    assert thin.values == pytest.approx(np.array([1.0] * 49 + [math.nan]), nan_ok=True)
    assert (thin.images[0], thin.images[-1]) == (64 * 9.5, 64 * 989.5)


# --- the page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two methods with two and one seeds, an untrained one, and a run of another data set."""
    folder = tmp_path_factory.mktemp("runs")
    captions = ['<script>alert("x")</script> & a star', "a red circle", "a “blue” square"]
    return [
        leave(folder / "toy-s0", [fid(10 / 3), precision(50)], captions, seed=0),
        leave(folder / "toy-s1", [fid(1e-3), precision(60)], captions, seed=1),
        leave(folder / "other-s0", [fid(7)], captions, model="other<b>"),
        leave(folder / "toy-s0-b0", [fid(300)], captions, steps=0, budget=0),
        leave(folder / "emoji-s0", [fid(8.25)], captions[:1], dataset="emoji"),
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, runs: list[Path]) -> Report:
    return report(runs, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: Report) -> Parsed:
    return Parsed(written.page.read_text(encoding="utf-8"))


def test_the_page_fetches_nothing_and_runs_nobody_elses_script(page: Parsed) -> None:
    links = [value for attribute in ("src", "href", "srcset", "action", "data", "poster", "background")
             for value in page.values(attribute)]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    scripts_and_styles = " ".join(text for tag, text in page.text if tag in ("script", "style"))
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", scripts_and_styles)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert ("th", '<script>alert("x")</script> & a star') in page.text
    assert ("button", "other<b>/tiny") in page.text
    assert all(page.values("alt", "img"))
    assert len(page.values("alt", "img")) == len(page.values("src", "img"))


def test_every_gallery_image_is_in_the_page(page: Parsed, runs: list[Path]) -> None:
    shown = {base64.b64decode(uri.split(",")[1]) for uri in page.values("src", "img") if "image/png" in uri}
    files = {path.read_bytes() for folder in runs for path in folder.glob("*.png")}
    assert len(files) == 13
    assert shown == files


def test_the_numbers_of_the_page_are_those_of_the_csv_and_the_json(page: Parsed, written: Report) -> None:
    on_page = sorted(float(value) for value in page.values("data-value"))
    rows = csv_rows(written.csv.read_text(encoding="utf-8"))
    numbers = ["fid@scenes", "r_precision@scenes", "budget", "seeds", "generator_parameters", "parameters",
               "training_images", "training_minutes", "sample_images_per_second", "training_images_per_second"]
    in_csv = sorted(float(row[name]) for row in rows for name in numbers if row[name])
    assert on_page == in_csv
    assert len(rows) == 4
    toy = next(row for row in rows if row["runs"] == "toy-s0 toy-s1")
    assert float(toy["fid@scenes"]) == (10 / 3 + 1e-3) / 2
    assert (toy["r_precision@scenes seeds"], toy["seed_list"], toy["budget"]) == ("2", "0 1", "1000")

    document = json.loads(written.json.read_text(encoding="utf-8"))
    assert document["schema"] == 1
    assert [table["protocol"]["dataset"] for table in document["tables"]] == ["emoji", "scenes"]
    row = next(row for row in document["tables"][1]["rows"] if row["runs"] == ["toy-s0", "toy-s1"])
    assert row["seeds"] == [0, 1]
    assert row["scores"]["fid@scenes"]["values"] == [10 / 3, 1e-3]
    assert row["scores"]["r_precision@scenes"] == {
        "mean": 55.0, "sd": pytest.approx(math.sqrt(50)), "stderr": None, "values": [50.0, 60.0],
        "interval": pytest.approx([55 - 12.706205 * 5, 55 + 12.706205 * 5]),
        "higher_is_better": True, "groups": None}


def test_every_row_leads_to_its_runs_and_their_commands(page: Parsed, runs: list[Path]) -> None:
    for folder, run in zip(sorted(runs), tables.load_runs(runs), strict=True):
        assert any(tag == "h4" and folder.name in text for tag, text in page.text)
        assert ("code", command(run)) in page.text
    controlled = page.values("aria-controls")
    assert len(controlled) == 4 and set(controlled) <= set(page.values("id"))


def test_captions_are_shown_up_to_a_limit_those_of_most_runs_first(tmp_path: Path) -> None:
    shared = [f"caption {number}" for number in range(4)]
    folders = [leave(tmp_path / "a", captions=[f"own {number}" for number in range(20)]),
               leave(tmp_path / "b", captions=shared, seed=1), leave(tmp_path / "c", captions=shared, seed=2)]
    page = Parsed(report(folders, tmp_path / "out").page.read_text(encoding="utf-8"))
    captions = page.values("data-caption")
    assert len(captions) == MAX_CAPTIONS
    assert captions[:4] == shared
    assert any("do not agree on which caption test-0 is" in text for _, text in page.text)


def test_missing_pieces_are_noted_and_never_read_from_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (2, 2), "red").save(secret)
    lost = leave(tmp_path / "lost", captions=["a", "b", "c"], steps=0)
    (lost / "0.png").unlink()
    (lost / "1.png").write_text("<svg/>")
    record = tables.load_runs([lost])[0].record
    outside = GalleryItem(caption="out", caption_id="out", seed=0, file="../secret.png")
    save(lost, Record(**{**vars(record), "gallery": (*record.gallery, outside)}))
    bare = leave(tmp_path / "bare", model="bare", notes=["left out"])
    text = report([lost, bare], tmp_path / "out").page.read_text(encoding="utf-8")
    said = " ".join(text for tag, text in Parsed(text).text if tag == "li")
    for note in ("No training log: lost.", "No gallery: bare.", "No image: lost/0.png.",
                 "Not a PNG: lost/1.png.", "No image: lost/../secret.png.", "left out (bare)"):
        assert note in said
    assert base64.b64encode(secret.read_bytes()).decode() not in text
    assert base64.b64encode((lost / "2.png").read_bytes()).decode() in text


def test_a_bad_record_leaves_no_report(tmp_path: Path, runs: list[Path]) -> None:
    bad = leave(tmp_path / "bad")
    (bad / "record.json").write_text("{")
    with pytest.raises(UserError, match="bad"):
        report([*runs, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_follows_from_what_was_passed_and_the_specification(tmp_path: Path) -> None:
    passed = {"model": "my model.py:Toy", "data": "folder", "root": "/data", "preset": "tiny", "seed": 5,
              "budget": 1000, "settings": {"width": 9}, "precision": None}
    given, derived = tables.load_runs([
        leave(tmp_path / "b", passed=passed),
        leave(tmp_path / "c", config={"width": 8, "name": "x y", "bias": True}, seed=3),
    ])
    assert command(given) == ("t2ibench run 'my model.py:Toy' --data folder --root /data --preset tiny "
                              "--seed 5 --budget 1000 --set width=9 --split test --samples 500 --judges scenes")
    assert command(derived) == ("t2ibench run toy --data scenes --preset tiny --seed 3 --budget 1000 "
                                "--set width=8 --set 'name=x y' --set bias=true "
                                "--split test --samples 500 --judges scenes")
    guided = {**SPEC["evaluation"], "drawn_with": {"sampling.guidance": 2}}
    (drawn,) = tables.load_runs([leave(tmp_path / "d", passed=passed, evaluation=guided)])
    assert command(drawn) == (f"{command(given)} && t2ibench score d --split test --samples 500 --judges scenes "
                              "--set sampling.guidance=2")
