"""Records: what is written is read, and what is not a record is refused in one line."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.errors import UserError
from t2ibench.reports.records import (
    GalleryItem,
    LogRow,
    Probe,
    Record,
    Score,
    StageCost,
    load,
    overfitting_notes,
    read_log,
    save,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**53)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
word = st.text("abcdefghij_-0123456789", min_size=1, max_size=10)
values = st.none() | st.booleans() | finite | text | st.lists(count, max_size=3)
settings_dict = st.dictionaries(text, values, max_size=4)

specs = st.fixed_dictionaries({
    "model": word, "preset": word, "config": settings_dict, "dataset": text, "image_size": count,
    "data": settings_dict, "seed": count, "budget": count, "evaluation": settings_dict, "precision": word,
})
scores = st.builds(Score, metric=word, judge=word, value=finite, stderr=st.none() | finite, n=count,
                   higher_is_better=st.booleans())
galleries = st.builds(GalleryItem, caption=text, caption_id=text, seed=count, file=text)
stages = st.builds(StageCost, stage=text, images=count, steps=count, seconds=finite)

named_scores = st.lists(scores, max_size=4, unique_by=lambda score: score.name).map(tuple)
probes = st.builds(Probe, category=text, value=st.none() | finite, stderr=st.none() | finite, n=count,
                   real=st.none() | finite, about=text)


@st.composite
def some_records(draw: st.DrawFn) -> Record:
    return Record(
        spec=draw(specs), passed=draw(settings_dict), stages=tuple(draw(st.lists(stages, max_size=3))),
        scores=draw(named_scores), controls=draw(st.dictionaries(word, named_scores, max_size=2)),
        probes=tuple(draw(st.lists(probes, max_size=2))), cost=draw(st.dictionaries(word, finite, max_size=2)),
        parameters=draw(st.dictionaries(word, count, max_size=3)), sample_images_per_second=draw(finite),
        gallery=tuple(draw(st.lists(galleries, max_size=3))), environment=draw(settings_dict),
        notes=tuple(draw(st.lists(text, max_size=2))),
    )


@given(record=some_records())
@settings(deadline=None, max_examples=60)
def test_a_saved_record_is_loaded_equal(record: Record) -> None:
    with TemporaryDirectory() as folder:
        save(Path(folder), record)
        assert load(Path(folder)) == record


def document() -> dict[str, Any]:
    return {
        "schema": 2,
        "spec": {"model": "m", "preset": "p", "config": {}, "dataset": "d", "image_size": 32,
                 "data": {}, "seed": 0, "budget": 1, "evaluation": {}},
        "passed": {}, "parameters": {}, "sample_images_per_second": 1.0, "environment": {}, "gallery": [],
        "notes": [], "cost": {"latency_p50_ms": 1},
        "controls": {"real": {"fid@scenes": {"value": 1, "stderr": None, "n": 5, "higher_is_better": False}}},
        "probes": [{"category": "c", "value": None, "stderr": None, "n": 0, "real": None, "about": "why"}],
        "stages": [{"stage": "gan", "images": 1, "steps": 1, "seconds": 1}],
        "scores": {"fid@scenes": {"value": 3, "stderr": None, "n": 5, "higher_is_better": False}},
    }


def test_whole_numbers_stand_for_floats(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(document()))
    record = load(tmp_path)
    assert record.label == "m/p"
    assert record.score("fid@scenes") == Score(metric="fid", judge="scenes", value=3.0, stderr=None, n=5,
                                               higher_is_better=False)
    assert record.score("fid@inception") is None


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the document with the value at a dotted path replaced, or removed where it is `...`."""
    whole = document()
    *parents, last = path.split(".")
    inner: Any = whole
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return whole


@pytest.mark.parametrize(("path", "value"), [
    ("schema", 1), ("schema", ...), ("probes.0.value", "much"), ("controls.real", []),
    ("controls.real.fid", {}), ("cost", {"latency": "long"}),
    ("spec", ...), ("spec.seed", ...), ("spec.evaluation", [1]),
    ("spec.config", {"learning_rate": float("inf")}), ("spec.dataset", "half \ud800 a character"),
    ("stages", ...), ("stages.0.images", "many"), ("stages.0.colour", 1),
    ("scores", []), ("scores.fid", {}), ("scores.fid@scenes.value", ...), ("scores.fid@scenes.value", "3.0"),
    ("scores.fid@scenes.value", float("nan")), ("scores.fid@scenes.higher_is_better", 1),
    ("gallery", [{"caption": "x"}]), ("gallery", None), ("parameters", [1]), ("parameters", {"g": "1M"}),
    ("surprise", 1),
])
def test_what_is_not_a_record_is_refused_by_file(tmp_path: Path, path: str, value: Any) -> None:
    (tmp_path / "record.json").write_text(json.dumps(changed(path, value)))
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert str(tmp_path / "record.json") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"schema": 2}', "\xff\xfe"])
def test_malformed_json_is_refused_by_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"record\.json"):
        load(tmp_path)


def test_another_schema_says_both_versions(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(changed("schema", 7)))
    with pytest.raises(UserError, match="schema 7, this version reads 2"):
        load(tmp_path)


def test_an_unfinished_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no record\.json"):
        load(tmp_path)


def test_a_log_ends_at_the_line_a_crash_cut_off(tmp_path: Path) -> None:
    rows = [LogRow(stage="gan", step=step, images=step, seconds=0.5, losses={"g": 1.5}) for step in (1, 2)]
    lines = [json.dumps(vars(row)) for row in rows]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, lines[0][:20]]))
    assert read_log(tmp_path) == rows


@pytest.mark.parametrize("line", ["[]", "3", '{"stage": "gan"}', '{"stage": "gan", "step": 1, "images": "x", '
                                  '"seconds": 1, "losses": {}}', '{"stage": "gan", "step": 1, "images": 1, '
                                  '"seconds": 1, "losses": {"g": "high"}}'])
def test_a_line_that_is_no_log_row_ends_the_log(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.jsonl").write_text(line + "\n")
    assert read_log(tmp_path) == []


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []


@pytest.mark.parametrize(("values", "lowest", "images", "last"), [
    ([7.0, 1.97, 1.64, 1.8], "1.64", 300, "1.8"), ([-1.0, -3.0, -2.9], "-3", 200, "-2.9"),
    ([7.0, 1.97, 1.64, 1.65], None, 0, ""), ([3.0, 2.0], None, 0, ""),
])  # fmt: skip
def test_over_fitting_is_noted_with_its_lowest_point(
    values: list[float], lowest: str | None, images: int, last: str
) -> None:
    rows = [LogRow(stage="prior", step=at, images=100 * at, seconds=0.0, losses=losses)
            for at, value in enumerate(values, 1)
            for losses in ({"image": 5.0 + at}, {"image_validation": value})]  # fmt: skip
    said = (f"over-fitting: image_validation of stage prior was lowest, {lowest}, after {images} images of all stages "
            f"and is {last} at the end")  # fmt: skip
    assert overfitting_notes(rows) == ([said] if lowest else [])
