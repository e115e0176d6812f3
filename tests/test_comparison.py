"""Comparisons: what two sets of runs say of each other, what they refuse, and what they do not claim."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from t2ibench.errors import UserError
from t2ibench.reports import answer, tables
from t2ibench.reports.comparison import Comparison, chosen_runs, compare
from t2ibench.reports.items import Items, save_items
from t2ibench.reports.records import Record, Score, load, save

SPEC: dict[str, Any] = {
    "model": "toy", "preset": "tiny", "config": {"width": 8}, "dataset": "scenes", "image_size": 32,
    "data": {"train": "ab" * 32}, "seed": 0, "budget": 1000,
    "evaluation": {"split": "test", "images": 500, "judges": ["scenes"], "judge_ids": ["joint:1"], "seed": 0},
}
HIGHER = {"fid": False, "is": True, "clip_score": True, "r_precision": True}


def leave(folder: Path, scores: Mapping[str, float], items: Items | None = None, n: int = 500, **spec: Any) -> Path:
    """Leave a finished run in `folder`, with the values of its images if there are any."""
    folder.mkdir(parents=True)
    if items is not None:
        save_items(folder / "items.npz", items)
    save(folder, Record(
        spec={**SPEC, **spec}, passed={}, stages=(), gallery=(), parameters={"generator": 1}, environment={},
        sample_images_per_second=1.0, scores=tuple(
            Score(metric=metric, judge="scenes", value=value, stderr=None, n=n, higher_is_better=HIGHER[metric])
            for metric, value in scores.items())))  # fmt: skip
    return folder


def seeds(folder: Path, model: str, values: Sequence[Mapping[str, float]], **spec: Any) -> list[Path]:
    return [leave(folder / f"{model}-s{seed}", scores, model=model, seed=seed, **spec)
            for seed, scores in enumerate(values)]  # fmt: skip


def drew(values: Mapping[str, Sequence[float]], images: Sequence[str] | None = None) -> Items:
    """Return the values of one image a caption; each of another image, or of `images`."""
    count = len(next(iter(values.values())))
    images = images or [f"i{number}" for number in range(count)]
    return Items(tuple(f"{image}#{number}" for number, image in enumerate(images)), tuple(images),
                 {f"{metric}@scenes": np.array(each, dtype=np.float64) for metric, each in values.items()})  # fmt: skip


def compared(a: Sequence[Path], b: Sequence[Path]) -> Comparison:
    return compare(tables.load_runs(a), tables.load_runs(b))


RIGHT_A, RIGHT_B = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return two runs of one seed each; A is right on 30 of 40 captions, B on 10 of these."""
    rng = np.random.default_rng(0)
    cosines = rng.normal(40, 3, 40)
    return (leave(tmp_path / "a", {"fid": 10.0, "r_precision": 0.75, "clip_score": 40.0},
                  drew({"r_precision": RIGHT_A, "clip_score": cosines}), model="first"),
            leave(tmp_path / "b", {"fid": 12.5, "r_precision": 0.25, "clip_score": 40.0},
                  drew({"r_precision": RIGHT_B, "clip_score": cosines + rng.normal(0, 1, 40)}),
                  model="second"))  # fmt: skip


# --- what is refused


@pytest.mark.parametrize(("changed", "said"), [
    ({"dataset": "emoji"}, "dataset is emoji and scenes in"), ({"image_size": 64}, "image_size is 64 and 32"),
    ({"data": {"train": "cd" * 32}}, "data.train is cdcd"),
    ({"data": {**SPEC["data"], "test": "ef" * 32}}, "data.test is efef.* and not given in"),
    ({"evaluation": {**SPEC["evaluation"], "images": 2000}}, "evaluation.images is 2000 and 500"),
    ({"evaluation": {**SPEC["evaluation"], "judge_ids": ["joint:2"]}}, r'judge_ids is \["joint:2"\] and'),
    ({"evaluation": {**SPEC["evaluation"], "drawn_with": {"guidance": 2}}}, "drawn_with.guidance is 2 and not given"),
])  # fmt: skip
def test_protocols_that_differ_are_refused_by_the_field(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    folders = leave(tmp_path / "a", {"fid": 1}), leave(tmp_path / "b", {"fid": 2}, seed=1, **changed)
    with pytest.raises(UserError, match=f"/b: scored by another protocol, .*{said}") as raised:
        compared(folders[:1], folders[1:])
    assert "\n" not in str(raised.value)


def test_a_run_is_not_compared_with_itself_nor_a_mixture_with_anything(tmp_path: Path) -> None:
    a, b = leave(tmp_path / "a", {"fid": 1}), leave(tmp_path / "b", {"fid": 2}, budget=2000)
    c = leave(tmp_path / "c", {"is": 2}, model="other")
    shutil.copytree(a, tmp_path / "copy")
    for other in (a, tmp_path / "copy"):
        with pytest.raises(UserError, match="the same run stands on both sides"):
            compared([a], [other])
    with pytest.raises(UserError, match="one method at one budget, got toy/tiny, budget 1000; toy/tiny, budget 2000"):
        compared([a, b], [c])
    with pytest.raises(UserError, match="no score in common"):
        compared([a], [c])


# --- one seed each: these networks, not the methods


def test_one_seed_each_speaks_of_networks_and_claims_nothing_of_methods(pair: tuple[Path, Path]) -> None:
    found = compared(pair[:1], pair[1:])
    assert not found.claims
    clip_score, right = found.over_captions
    assert (right.score, right.value, right.n) == ("r_precision@scenes", 0.5, (40, 40))
    expected = stats.ttest_1samp(np.subtract(RIGHT_A, RIGHT_B), 0).confidence_interval()
    assert (right.low, right.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (right.test, right.p) == ("exact McNemar test", pytest.approx(2 * 0.5**20))
    assert right.adjusted == pytest.approx(4 * 0.5**20), "Holm over two scores"
    assert right.separated and not clip_score.separated and "sign-flip" in str(clip_score.test)
    for each in found.over_seeds:
        assert (each.low, each.p, each.adjusted, each.detectable, each.separated) == (None,) * 4 + (False,)
    said = answer.words(found)
    assert said.startswith("first/tiny scores better than second/tiny: R-precision@scenes "
                           "75.0 % against 25.0 % (+50.0 points, 95 % interval +33.8 to +66.2)")  # fmt: skip
    assert "they cannot be told apart by CLIP score@scenes" in said
    assert "over the same 40 captions. That is about these networks, not about the methods." in said
    assert "By the plain numbers first/tiny has the better FID@scenes." in said
    assert said.endswith("With one seed each nothing is claimed about the methods; 4 each are needed for an exact "
                         "test to reach p = 0.05.")  # fmt: skip


def test_the_other_way_round_is_the_same_with_the_sign_changed(pair: tuple[Path, Path]) -> None:
    one, other = compared(pair[:1], pair[1:]), compared(pair[1:], pair[:1])
    for a, b in zip((*one.over_seeds, *one.over_captions), (*other.over_seeds, *other.over_captions), strict=True):
        assert (a.a, a.b, a.value, a.p, a.adjusted) == (b.b, b.a, -b.value, b.p, b.adjusted)
        assert a.better == {"a": "b", "b": "a", None: None}[b.better]
        if a.low is not None and b.high is not None:
            assert a.low == pytest.approx(-b.high)
    assert one.over_seeds[0].better == "a", "a lower FID is better"
    assert "first/tiny scores better than second/tiny" in answer.words(other)


def test_captions_of_one_image_are_one_cluster_and_what_does_not_count_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [f"i{number // 5}" for number in range(60)]
    gaps = np.repeat(rng.normal(size=12), 5)
    base = rng.normal(size=60)
    values = base + gaps
    values[:3] = np.nan
    folders = [leave(tmp_path / name, {"clip_score": 1}, drew({"clip_score": each}, images), model=name)
               for name, each in (("a", values), ("b", base))]  # fmt: skip
    (found,) = compared(folders[:1], folders[1:]).over_captions
    assert found.n == (57, 12)
    assert found.value == pytest.approx(gaps[3:].mean())
    width = stats.ttest_1samp(gaps[::5], 0).confidence_interval()
    assert found.high is not None and found.low is not None
    assert found.high - found.low == pytest.approx(width.high - width.low, rel=0.15)


@pytest.mark.parametrize(("items", "said"), [
    (None, "no values of single images were kept of b"), (drew({"is": [1.0] * 41}), "drew different captions"),
])  # fmt: skip
def test_what_cannot_be_paired_is_said(tmp_path: Path, items: Items | None, said: str) -> None:
    a = leave(tmp_path / "a", {"is": 1}, drew({"is": [1.0] * 40}))
    found = compared([a], [leave(tmp_path / "b", {"is": 2}, items, seed=1)])
    assert found.over_captions == () and said in answer.words(found)
    assert (found.a.name, found.b.name) == ("toy/tiny, seed 0", "toy/tiny, seed 1")


def test_other_numbers_of_images_are_not_compared(tmp_path: Path) -> None:
    found = compared([leave(tmp_path / "a", {"fid": 1}), leave(tmp_path / "c", {"fid": 1, "is": 3}, seed=2)],
                     [leave(tmp_path / "b", {"fid": 2, "is": 3}, budget=5)])  # fmt: skip
    assert [each.score for each in found.over_seeds] == ["fid@scenes"]
    assert "Not compared, as not every run has it for as many images: is@scenes." in answer.words(found)
    with pytest.raises(UserError, match="no score in common"):
        compared([tmp_path / "a"], [leave(tmp_path / "d", {"fid": 1}, n=400, budget=6)])


# --- several seeds: the methods


def many(folder: Path, model: str, count: int, fid: float, start: int = 0) -> list[Path]:
    rng = np.random.default_rng(start)
    return seeds(folder, model, [{"fid": fid + rng.normal(), "is": 5 + rng.normal()} for _ in range(count)])


@pytest.mark.parametrize(("counts", "claims"), [((4, 4), True), ((3, 4), False), ((2, 9), False), ((1, 5), False)])
def test_methods_are_told_apart_by_four_seeds_each_and_not_by_fewer(
    tmp_path: Path, counts: tuple[int, int], claims: bool
) -> None:
    a, b = many(tmp_path, "first", counts[0], 30, 1), many(tmp_path, "second", counts[1], 60, 2)
    found = compared(a, b)
    fid, inception = found.over_seeds
    assert found.claims is claims and fid.separated is claims and not inception.separated
    assert (fid.p is not None) is claims and fid.n == counts
    said = answer.words(found)
    if claims:
        assert (fid.p, fid.adjusted) == (pytest.approx(2 / 70), pytest.approx(2 / 70))
        values = [[run.record.score("fid@scenes").value for run in side.runs] for side in (found.a, found.b)]
        expected = stats.ttest_ind(*values, equal_var=False).confidence_interval()
        assert (fid.low, fid.high) == pytest.approx((expected.low, expected.high))
        assert "Over 4 training seeds each, first/tiny scores better than second/tiny: FID@scenes" in said
        assert "they cannot be told apart by IS@scenes" in said
    else:
        assert "nothing is claimed about the methods; 4 each are needed" in said
        assert "told apart" not in said and "scores better" not in said


def test_values_of_images_are_averaged_over_the_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 50))
    folders = [leave(tmp_path / str(number), {"clip_score": 1}, drew({"clip_score": each}), seed=number,
                     model="a" if number < 2 else "b") for number, each in enumerate(values)]  # fmt: skip
    (found,) = compared(folders[:2], folders[2:]).over_captions
    expected = stats.ttest_1samp(values[:2].mean(0) - values[2], 0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)


def test_a_copied_run_is_no_seed(tmp_path: Path) -> None:
    a, b = many(tmp_path, "first", 3, 30), many(tmp_path, "second", 4, 60)
    shutil.copytree(a[0], tmp_path / "copy")
    assert not compared([*a, tmp_path / "copy"], b).claims


# --- which runs, and how the answer reads


def test_runs_are_chosen_by_folder_by_model_and_by_preset(tmp_path: Path) -> None:
    first, second = many(tmp_path, "first", 2, 30), many(tmp_path, "second", 1, 60)
    leave(tmp_path / "small", {"fid": 1}, model="second", preset="small")
    assert [run.folder for run in chosen_runs(str(second[0]), tmp_path / "nowhere")] == second
    assert [run.folder for run in chosen_runs("first", tmp_path)] == first
    assert [run.folder for run in chosen_runs("second/tiny", tmp_path)] == second
    with pytest.raises(UserError, match="second: 2 sets of runs .* second/small, budget 1000, scenes, 32 px .small.; "):
        chosen_runs("second", tmp_path)
    with pytest.raises(UserError, match="unknown run or model .* 'frist': did you mean 'first/tiny'"):
        chosen_runs("frist", tmp_path)
    with pytest.raises(UserError, match="first: no folder of a run, and .*nowhere holds no finished runs"):
        chosen_runs("first", tmp_path / "nowhere")


def test_equal_sides_of_which_no_image_differs_have_no_interval_and_no_detectable_difference(tmp_path: Path) -> None:
    sides = [seeds(tmp_path, name, [{"r_precision": 0.0}] * 4) for name in ("one", "two")]
    for folder in (*sides[0], *sides[1]):
        save_items(folder / "items.npz", drew({"r_precision": [0.0] * 40}))
    found = compared(*sides)
    for each in (*found.over_seeds, *found.over_captions):
        assert (each.value, each.low, each.high, each.detectable, each.separated) == (0, None, None, None, False)
    assert len(found.over_seeds) == len(found.over_captions) == 1 and answer.words(found)


def test_a_side_that_others_captions_fit_as_well_is_named(tmp_path: Path) -> None:
    def side(name: str, right: float, shuffled: float) -> Path:
        def score(value: float) -> Score:
            return Score(metric="r_precision", judge="scenes", value=value, stderr=0.01, n=500, higher_is_better=True)

        folder = leave(tmp_path / name, {}, model=name)
        record = replace(load(folder), scores=(score(right),), controls={"shuffled": (score(shuffled),)})
        save(folder, record)
        return folder

    # Two standard errors of the difference are 0.028.
    found = compared([side("deaf", 0.037, 0.01)], [side("hears", 0.04, 0.01)])
    assert found.heedless == {"a": ("r_precision@scenes",), "b": ()}
    assert "With the captions of other images deaf/tiny scores as well by R-precision@scenes." in answer.words(found)


def test_a_lead_that_captions_play_no_part_in_is_no_better_score(pair: tuple[Path, Path]) -> None:
    shuffled = Score(metric="r_precision", judge="scenes", value=0.75, stderr=0.1, n=500, higher_is_better=True)
    save(pair[0], replace(load(pair[0]), controls={"shuffled": (shuffled,)}))
    said = answer.words(compared(pair[:1], pair[1:]))
    assert "first/tiny is ahead in R-precision@scenes, but no further than with captions of other images" in said
    assert "scores better than" not in said


def test_a_lead_over_which_training_changed_nothing_is_no_better_score(pair: tuple[Path, Path]) -> None:
    untrained = Score(metric="r_precision", judge="scenes", value=0.76, stderr=0.1, n=500, higher_is_better=True)
    save(pair[0], replace(load(pair[0]), controls={"untrained": (untrained,)}))
    found = compared(pair[:1], pair[1:])
    assert found.untaught == {"a": ("r_precision@scenes",), "b": ()}
    said = answer.words(found)
    assert "first/tiny is ahead in R-precision@scenes, but no better than before its training" in said
    assert "scores better than" not in said


def test_a_folder_that_is_no_run_does_not_stand_for_a_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy").mkdir()
    leave(tmp_path / "runs" / "a", {"fid": 1})
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in chosen_runs("toy", Path("runs"))] == ["a"]


@pytest.mark.parametrize("changed", [
    {"budget": 5}, {"config": {"width": 9}}, {"evaluation": {**SPEC["evaluation"], "images": 9}}, {"dataset": "emoji"},
])  # fmt: skip
def test_a_name_of_several_methods_budgets_or_protocols_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    many(tmp_path, "first", 2, 30)
    leave(tmp_path / "other", {"fid": 1}, **{"model": "first", "seed": 7, **changed})
    with pytest.raises(UserError, match="first: 2 sets of runs"):
        chosen_runs("first", tmp_path)


def test_methods_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    a = leave(tmp_path / "a", {"fid": 1})
    for name, spec, expected in (("b", {"config": {"width": 9}}, ("toy/tiny (width=8)", "toy/tiny (width=9)")),
                                 ("c", {"budget": 0}, ("toy/tiny, budget 1000", "toy/tiny, budget 0"))):  # fmt: skip
        found = compared([a], [leave(tmp_path / name, {"fid": 1}, **spec)])
        assert (found.a.name, found.b.name) == expected


def test_the_columns_stand_under_their_headings(pair: tuple[Path, Path]) -> None:
    head, *rows = answer.lines(compared(pair[:1], pair[1:]))
    assert [len(row.split("  ")[0].rstrip()) > 0 for row in rows] == [True] * 5
    for row in rows:
        assert row[head.index("over")] != " " and row[head.index("over") - 1] == " "
    assert rows[0].split() == ["FID@scenes", "↓", "10.00", "12.50", "-2.50", "–", "–", "–", "1", "v", "1", "seeds"]
    assert rows[4].split()[:9] == ["R-precision@scenes", "↑", "75.0", "%", "25.0", "%", "+50.0", "+33.8", "to"]


def test_the_verb_answers_in_words_in_numbers_and_in_one_line(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    code, out, _ = call("compare", "first", "second/tiny", "--runs", tmp_path)
    assert code == 0 and "scores better than" in out
    assert f"A: first/tiny, seed 0 ({pair[0].resolve()})\nB: second/tiny, seed 0 (" in out
    code, out, _ = call("compare", *pair, "--json")
    found = json.loads(out)
    assert code == 0 and found["words"] == answer.words(compared(pair[:1], pair[1:]))
    assert found["a"] == {"method": "first/tiny", "seeds": [0], "runs": ["a"]}
    assert found["claims"] is False and found["protocol"]["evaluation"]["images"] == 500
    assert found["over_seeds"]["fid@scenes"] == {
        "a": 10.0, "b": 12.5, "difference": -2.5, "better": "a", "higher_is_better": False, "low": None, "high": None,
        "p": None, "p_adjusted": None, "test": None, "separated": False, "detectable": None, "seeds_a": 1,
        "seeds_b": 1}  # fmt: skip
    assert found["over_captions"]["r_precision@scenes"]["captions"] == 40
    (pair[0] / "items.npz").write_bytes(b"cut")
    for arguments, said in ((("first", "frist"), "unknown run or model"), (pair, "items.npz: no per-image values")):
        code, out, err = call("compare", *arguments, "--runs", tmp_path)
        assert code == 2 and said in err and err.count("\n") == 1 and out == ""
    assert call("compare", "--help")[1].count("t2ibench compare ") >= 3
