"""`score --images`: any folder of captioned images, against data, a saved reference, or its captions alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ibench.datasets.store import Store
from t2ibench.suite.scoring import class_notes

Call = Callable[..., tuple[int, str, str]]
N = 130


@pytest.fixture
def drawn(held_out: Store, tmp_path: Path) -> Path:
    """Return a folder of real scenes, as another system might have drawn them, without captions."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for number, image in enumerate(held_out.batch(np.arange(N)).images.numpy()):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def captions(held_out: Store, tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{held_out.captions(number)[0]}\n" for number in range(N)))
    return file


def scored(call: Call, *arguments: str | Path) -> dict[str, Any]:
    code, out, err = call("score", *arguments, "--json")
    assert code == 0, err + out
    return {name: score["value"] for name, score in json.loads(out)["scores"].items()}


def test_captions_alone_are_enough_for_alignment(call: Call, drawn: Path, captions: Path, tmp_path: Path) -> None:
    found = scored(call, "--images", drawn, "--captions", captions, "--judges", "scenes,reader")
    assert found["r_precision@scenes"] > 0.9 and found["all@reader"] > 0.95 and "fid@scenes" not in found
    lines = captions.read_text().splitlines()
    captions.write_text("\n".join(lines[1:] + lines[:1]))
    found = scored(call, "--images", drawn, "--captions", captions, "--judges", "scenes,reader")
    assert found["r_precision@scenes"] < 0.1 and found["all@reader"] < 0.1
    rows = [{"file_name": f"{number:03d}.png", "text": [line, "another"]} for number, line in enumerate(lines)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    found = scored(call, "--images", drawn, "--captions", tmp_path / "rows.jsonl", "--judges", "scenes")
    assert found["r_precision@scenes"] > 0.9, "rows name their images"


def test_a_folder_is_scored_in_the_order_of_names_wherever_its_captions_lie(
    call: Call, drawn: Path, captions: Path
) -> None:
    by_file = scored(call, "--images", drawn, "--captions", captions, "--judges", "scenes")
    for file, line in zip(sorted(drawn.iterdir()), captions.read_text().splitlines(), strict=True):
        file.with_suffix(".txt").write_text(line)
    assert scored(call, "--images", drawn, "--judges", "scenes") == by_file


def test_the_training_images_can_be_left_out(call: Call, drawn: Path, captions: Path) -> None:
    arguments = ("score", "--images", drawn, "--captions", captions, "--data", "scenes", "--judges", "scenes", "--json")
    code, out, err = call(*arguments, "--train-images", "0")
    assert code == 0 and "no training images are compared with" in err
    found = json.loads(out)
    assert "copied@scenes" not in found["scores"] and "fid@scenes" not in found["controls"]["real"]


def test_a_saved_reference_stands_for_its_data(call: Call, drawn: Path, captions: Path, tmp_path: Path) -> None:
    code, out, err = call("data", "reference", "scenes", "--size", "32", "--split", "val", "--judges", "scenes,reader",
                          "--out", tmp_path / "kept", "--json")  # fmt: skip
    assert code == 0, err
    [file] = json.loads(out)["references"]
    arguments = ("--images", drawn, "--captions", captions)
    by_file = scored(call, *arguments, "--reference", file)
    by_data = scored(call, *arguments, "--data", "scenes", "--split", "val", "--judges", "scenes")
    assert by_file == {name: by_data[name] for name in by_file} and by_file["fid@scenes"] < 600
    assert set(by_data) - set(by_file) == {"copied@scenes"}, "which needs the training images"

    with np.load(file) as arrays:
        texts = arrays["texts"].tobytes().replace(b"joint-r1:", b"joint-r0:")
        changed = {**arrays, "texts": np.frombuffer(texts, np.uint8)}
    np.savez(tmp_path / "old.npz", **changed)
    code, _, err = call("score", *arguments, "--reference", tmp_path / "old.npz")
    assert code == 2 and "old.npz: seen by joint-r0:" in err and err.count("\n") == 1


def broken(folder: Path, how: str) -> None:
    first = folder / "000.png"
    if how == "truncated":
        first.write_bytes(first.read_bytes()[:60])
    elif how == "no image":
        first.write_text("a red circle")
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "one":
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()


@pytest.mark.parametrize(("how", "said"), [
    ("truncated", "000.png"), ("no image", "000.png"), ("empty", "drawn"), ("one", "130 captions for 1 images"),
])
def test_what_is_no_image_is_refused_in_one_line(how: str, said: str, call: Call, drawn: Path, captions: Path) -> None:
    broken(drawn, how)
    code, out, err = call("score", "--images", drawn, "--captions", captions, "--data", "scenes")
    assert code == 2 and said in err.splitlines()[-1] and not out, err


def test_one_image_has_no_distance(call: Call, drawn: Path, captions: Path) -> None:
    broken(drawn, "one")
    captions.write_text("a red circle\n")
    code, out, err = call("score", "--images", drawn, "--captions", captions, "--data", "scenes", "--judges", "scenes")
    assert code == 2 and "at least 2 images" in err and not out


def test_images_of_several_sizes_are_brought_to_one(call: Call, drawn: Path, captions: Path) -> None:
    whole = scored(call, "--images", drawn, "--captions", captions, "--judges", "scenes")
    for file in sorted(drawn.iterdir())[1::2]:
        Image.open(file).resize((64, 64), Image.Resampling.NEAREST).save(file)
    arguments = ("--images", drawn, "--captions", captions, "--judges", "scenes")
    assert f"note: {N // 2} of {N} images are not of 32 x 32 pixels, but of 64 x 64" in call("score", *arguments)[2]
    mixed = scored(call, *arguments)
    assert mixed["clip_score@scenes"] == pytest.approx(whole["clip_score@scenes"], abs=3)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--judges", "scenes", "--reference", "x.npz"], "leave out --judges"),
    ([], "give --data NAME or --reference FILE"),
    (["--judges", "scenes", "--captions", "GAP"], "line 3: an empty caption"),
    (["--reference", "none.npz"], "no such file"), (["--judges", "in-domain"], "taught on a data set"),
    (["--judges", "inception"], "pt_inception-2015-12-05"), (["--judges", "scenes", "--samples", "9"], "go with a run"),
])
def test_mistakes_are_said_in_one_line(
    arguments: list[str], said: str, call: Call, drawn: Path, captions: Path
) -> None:
    gap = captions.with_name("gap.txt")
    gap.write_text("a\nb\n\nc\n")
    arguments = [str(gap) if argument == "GAP" else argument for argument in arguments]
    code, _, err = call("score", "--images", drawn, "--captions", captions, *arguments)
    assert code == 2 and said in err.splitlines()[-1], err


class Labelled:
    """A split whose images have these classes."""

    split = "some"

    def __init__(self, *classes: int) -> None:
        self.classes = np.array(classes)

    def __len__(self) -> int:
        return len(self.classes)

    def labels(self, at: Any) -> Any:
        return self.classes[at]


def test_zero_shot_splits_have_no_floor() -> None:
    assert len(class_notes(Labelled(0, 1), Labelled(2, 3))) == 1  # type: ignore[arg-type]
    assert class_notes(Labelled(0, 1), Labelled(1, 2)) == class_notes(Labelled(), Labelled()) == []  # type: ignore[arg-type]


def test_a_judge_with_corrupt_weights_is_refused(
    call: Call, drawn: Path, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").write_bytes(b"no weights")
    code, _, err = call("score", "--images", drawn, "--captions", captions, "--judges", "inception")
    assert code == 2 and "pt_inception-2015-12-05-6726825d.pth" in err.splitlines()[-1], err


def test_paths_may_be_relative(
    call: Call, drawn: Path, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--images", "drawn", "--judges", "scenes")
    by_file = scored(call, *arguments, "--captions", captions.name)
    rows = [{"file_name": f"{at:03d}.png", "text": text} for at, text in enumerate(captions.read_text().splitlines())]
    (drawn / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scored(call, *arguments)["clip_score@scenes"] == pytest.approx(by_file["clip_score@scenes"], rel=1e-5)
