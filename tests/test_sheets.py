"""Reports: what stands beside the scores, as controls, probes, costs and the protocol in words."""

import base64
import json
import math
from pathlib import Path

import pytest
from left_runs import SPEC, fid, leave, precision, probe, read, score
from parsed_page import Parsed
from PIL import Image

from t2ibench.eval.scene_reader import CATEGORIES
from t2ibench.reports import sheets, tables, terminal, wording
from t2ibench.reports.page import report
from t2ibench.suite import plugins


def texts(line: sheets.Line) -> list[str]:
    return [entry.whole for entry in line.entries]


def test_every_metric_has_a_name_and_a_place() -> None:
    of_codes = {"psnr", "ssim", "codes_used", "perplexity"}
    assert set(plugins.METRICS) | set(CATEGORIES) | of_codes | {"cider"} == set(tables.METRICS)
    assert set(tables.METRICS) >= sheets.HEADLINES
    places = [tables.column_order(f"{metric}@a") for metric in (*tables.METRICS, "a", "b")]
    assert places == sorted(places)


def test_a_reader_sees_the_headlines_first_and_the_other_scores_below(tmp_path: Path) -> None:
    names = ["own@mine", "size@reader", "all@reader", "recall@scenes", "r_precision@scenes", "fid@scenes"]
    costs = [{"latency_p50_ms": 30.0, "latency_p95_ms": 2000.0}, {"latency_p50_ms": 50.0}]
    (table,) = read(leave(tmp_path / str(seed), [score(name, 0.5 + seed) for name in names], seed=seed, cost=cost)
                    for seed, cost in enumerate(costs))  # fmt: skip
    main, more = sheets.main(table), sheets.more(table)
    assert [f"{heading.text} {heading.arrow}" for heading in main.headings][2:5] == [
        "FID@scenes ↓", "R-precision@scenes ↑", "All right@reader ↑"]  # fmt: skip
    assert [heading.text for heading in more.headings] == [
        "Recall@scenes", "Size@reader", "own@mine", "All parameters", "Training images", "Images/s training",
        "Latency p50, ms", "Latency p95, ms"]  # fmt: skip
    assert texts(more.lines[0]) == ["1.000 ± 0.707"] * 3 + ["2M", "1,000", "8.3", "40.0", "2,000"]
    assert [line.name for line in main.lines] == [line.name for line in more.lines] == ["toy/tiny"]


@pytest.fixture
def controlled(tmp_path: Path) -> list[Path]:
    """Two methods, the first with two seeds; their real images score the same."""
    folders = []
    for seed, (model, untrained) in enumerate((("a", 300.0), ("a", 500.0), ("b", 200.0))):
        real = [fid(5.0), score("recall@scenes", 0.9), score("r_precision@scenes", 0.7, n=50)]
        controls = {"real": real, "untrained": [fid(untrained)], "shuffled": [precision(0.01, 0.002)]}
        scores = [fid(50.0 + seed), precision(0.5), score("recall@scenes", 0.25)]
        folders.append(leave(tmp_path / f"{model}{seed}", scores, model=model, seed=seed, controls=controls))
    return folders


def test_real_images_stand_beside_the_methods_under_scores_of_as_many_images(controlled: list[Path]) -> None:
    (table,) = read(controlled)
    (real,) = sheets.main(table).beside
    assert (real.name, texts(real)) == ("real images", ["", "", "5.00", "–", "", "", ""])
    assert [texts(line)[0] for line in sheets.more(table).beside] == ["0.9000"]
    (bare,) = read([leave(controlled[0].parent / "bare", [fid(1)])])
    assert sheets.main(bare).beside == () and sheets.controls(bare).empty and sheets.probes(bare).empty


def test_controls_are_means_over_seeds_and_rows_of_their_own(controlled: list[Path], tmp_path: Path) -> None:
    written = report(controlled, tmp_path / "out")
    (table,) = read(controlled)
    shown = sheets.controls(table)
    assert [heading.text for heading in shown.headings] == [
        "FID@scenes", "R-precision@scenes", "R-precision@scenes (n=50)"]  # fmt: skip
    assert {line.name: texts(line) for line in shown.lines} == {
        "real images": ["5.00", "–", "0.7000"],
        "a/tiny, untrained": ["400.00 ± 141.42", "–", "–"], "a/tiny, captions shuffled": ["–", "0.0100 ± 0.0000", "–"],
        "b/tiny, untrained": ["200.00", "–", "–"], "b/tiny, captions shuffled": ["–", "0.0100 ± 0.0020†", "–"]}
    (found,) = json.loads(written.json.read_text(encoding="utf-8"))["tables"]
    assert found["rows"][0]["controls"] == {
        "real": {"fid@scenes": 5.0, "recall@scenes": 0.9, "r_precision@scenes n=50": 0.7},
        "untrained": {"fid@scenes": 400.0}, "shuffled": {"r_precision@scenes": 0.01}}  # fmt: skip
    lines = written.markdown.read_text(encoding="utf-8").splitlines()
    last = next(at for at, line in enumerate(lines) if line.startswith("| *real images* |"))
    assert lines[last - 1].startswith("| b/tiny |") and lines[last].count("*5.00*") == 1 and lines[last + 1] == ""
    page = Parsed(written.page.read_text(encoding="utf-8"))
    # Twice beside the methods, in a body that no sorting moves, and once among the controls, which nothing sorts.
    assert [text for tag, text in page.text if tag == "th"].count("real images") == 3
    bodies = [attributes.get("class") for tag, attributes in page.tags if tag == "tbody"]
    assert bodies[:6] == [None, None, "beside"] * 2 and "beside" not in bodies[6:]
    assert not {"5.0", "400.0", "200.0"} & set(page.values("data-value"))


def test_a_readers_own_error_stands_under_what_it_says_of_any_number_of_images(tmp_path: Path) -> None:
    controls = {"real": [score("all@reader", 0.99, n=300)]}
    (table,) = read([leave(tmp_path / "a", [score("all@reader", 0.2, 0.01)], controls=controls)])
    assert [heading.text for heading in sheets.controls(table).headings] == ["All right@reader"]
    assert texts(sheets.main(table).beside[0])[2] == "0.9900"


def test_a_terminal_shows_controls_beside_scores_and_why_a_probe_is_missing() -> None:
    controls = {"real": [fid(5.0)], "shuffled": [precision(0.01)]}
    probes = [probe("counting", 0.25, "asked"), probe("styles", None, "no styles here")]
    assert list(terminal.lines([fid(1234.5), precision(0.5, 0.012)], controls, probes)) == [
        "fid@scenes                   1234   (lower is better, 500 images; real 5)",
        "r_precision@scenes           0.5 +- 0.012   (higher is better, 500 images; shuffled 0.01)",
        "counting                     25.0% of 40 prompts as asked (real images 95.0%)",
        "styles                       n/a: no styles here"]


def test_methods_of_several_budgets_are_told_apart_beside_the_first_table(tmp_path: Path) -> None:
    folders = [leave(tmp_path / str(budget), [fid(1)], budget=budget, probes=[probe("binding", 0.5)],
                     controls={"untrained": [fid(9)]}) for budget in (0, 5000)]  # fmt: skip
    (table,) = read(folders)
    names = ["toy/tiny, budget 0 (untrained)", "toy/tiny, budget 5k"]
    assert [line.name for line in sheets.more(table).lines] == names
    assert [line.name for line in sheets.controls(table).lines] == [f"{name}, untrained" for name in names]
    assert [heading.text for heading in sheets.probes(table).headings][:2] == names


def test_probes_say_per_cent_or_why_nothing_was_asked(tmp_path: Path) -> None:
    nothing = probe("styles", None, "one style")
    folders = [leave(tmp_path / f"a{seed}", seed=seed, model="a",
                     probes=[probe("binding", value), probe("panels", None, "takes no images"), nothing])
               for seed, value in enumerate((0.25, 0.75))]  # fmt: skip
    folders.append(leave(tmp_path / "b", model="b", probes=[probe("panels", 0.1, "the lower panel"), nothing]))
    written = report(folders, tmp_path / "out")
    (table,) = read(folders)
    shown = sheets.probes(table)
    assert [heading.text for heading in shown.headings] == ["a/tiny", "b/tiny", "real images", "Prompts"]
    assert [(line.name, line.about, *texts(line)) for line in shown.lines] == [
        ("binding", "asked", "50.0 ± 35.4", "–", "95.0", "40"),
        ("panels", "the lower panel", "n/a: takes no images", "10.0 ± 5.0†", "95.0", "40"),
        ("styles", "n/a: one style", "n/a", "n/a", "–", "–")]  # fmt: skip
    assert "| styles | n/a | n/a | – | – | n/a: one style |" in written.markdown.read_text(encoding="utf-8")
    (found,) = json.loads(written.json.read_text(encoding="utf-8"))["tables"]
    probes = found["rows"][0]["probes"]
    assert probes["binding"] == {"mean": 0.5, "sd": pytest.approx(math.sqrt(0.125)), "stderr": None,
                                 "values": [0.25, 0.75], "real": 0.95, "n": 40, "about": "asked"}
    assert (probes["styles"]["mean"], probes["styles"]["values"], probes["styles"]["about"]) == (None, [], "one style")
    page = Parsed(written.page.read_text(encoding="utf-8"))
    assert ("small", "n/a: one style") in page.text and ("small", "takes no images") in page.text


def test_the_nearest_training_images_of_each_methods_first_run_are_in_the_page(tmp_path: Path) -> None:
    folders = [leave(tmp_path / f"{model}{seed}", model=model, seed=seed)
               for model in ("a", "b", "c", "d") for seed in (0, 1)]  # fmt: skip
    for at, folder in enumerate(folders[:4]):
        Image.new("RGB", (10, 4), (at, 0, 0)).save(folder / "nearest.png")
    (folders[4] / "nearest.png").write_text("<svg/>")
    (folders[6] / "nearest.png").symlink_to(folders[0] / "nearest.png")
    page = Parsed(report(folders, tmp_path / "out").page.read_text(encoding="utf-8"))
    shown = [base64.b64decode(uri.split(",")[1]) for uri in page.values("src", "img") if "image/png" in uri]
    assert shown == [(folders[0] / "nearest.png").read_bytes(), (folders[2] / "nearest.png").read_bytes()]
    assert page.values("width", "img") == ["20", "20"], "twice the pixels, as images of 32 px are small"
    assert ("summary", "Nearest training images") in page.text
    none = Parsed(report(folders[5:6], tmp_path / "none").page.read_text(encoding="utf-8"))
    assert ("summary", "Nearest training images") not in none.text


def test_the_protocol_is_said_in_words_and_all_that_decides_scores_is_in_it(tmp_path: Path) -> None:
    evaluation = {**SPEC["evaluation"], "judge_ids": ["joint:1"], "train_images": 10_000, "version": 3}
    others = [{"train_images": 100}, {"version": 4}, {"drawn_with": {"guidance": 2}}]
    lines = [wording.protocol_line(read([leave(tmp_path / str(at), evaluation={**evaluation, **other})])[0])
             for at, other in enumerate([{}, *others])]  # fmt: skip
    assert lines[0] == ("test split · 500 generated images · 10,000 training images beside them · judged by scenes "
                        "(joint:1) · evaluation version 3, seed 0 · train data abababababab")  # fmt: skip
    assert len(set(lines)) == 4 and "100 training images" in lines[1] and "drawn_with {" in lines[3]
