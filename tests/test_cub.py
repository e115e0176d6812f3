import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts_birds import (
    CLASSES,
    COLOURS,
    TEST_CLASSES,
    birds,
    cub,
    cub_gan,
    embedding,
    gan_order,
    python2,
)
from PIL import Image

from t2ibench.datasets.captioned import Published, Salvageable, Source
from t2ibench.datasets.cub import code_crop, open_code_crop, open_paper_crop, open_source, paper_crop
from t2ibench.datasets.image_files import ImageFile, ImageFiles
from t2ibench.datasets.store import prepare
from t2ibench.errors import UserError

BIRDS = {f"{bird.name}.jpg": bird for bird in birds()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def refused(root: Path | None, opened: Callable[[Path | None], ImageFiles] = open_source) -> str:
    with pytest.raises(UserError) as caught:
        opened(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def by_number(source: ImageFiles) -> dict[int, ImageFile]:
    return {BIRDS[file.name].number: file for files in source.files.values() for file in files}


def check_pixels(source: ImageFiles) -> None:
    """The middle of each image must have the colour that its own captions name."""
    for split in source.splits:
        [chunk] = source.chunks(split, 16)
        for image, name, captions, label in zip(chunk.images, chunk.ids, chunk.captions, chunk.labels, strict=True):
            bird = BIRDS[name]
            assert all(c.startswith(f"picture {bird.number} shows a {bird.colour} ") for c in captions)
            assert np.abs(image[:, 8, 8].astype(int) - COLOURS[bird.colour]).max() < 12
            assert label == bird.group - 1 and source.class_names[label] == name.partition("/")[0]


def test_the_publisher_s_layout(tmp_path: Path) -> None:
    source = open_source(cub(tmp_path))
    assert isinstance(source, Source) and isinstance(source, Published) and isinstance(source, Salvageable)
    assert source.name == "cub" and source.zero_shot and source.splits == ("train", "test")
    assert source.expected == {"train": 8_855, "test": 2_933} and sum(source.expected.values()) == 11_788
    assert source.class_names == CLASSES
    assert (source.size("train"), source.size("test")) == (12, 8)
    assert [file.name for file in source.files["train"]] == [n for n, b in BIRDS.items() if b.group not in TEST_CLASSES]
    check_pixels(source)


def test_the_split_is_by_class_and_not_the_official_one(tmp_path: Path) -> None:
    source = open_source(cub(tmp_path))
    groups = {split: {BIRDS[file.name].group for file in source.files[split]} for split in source.splits}
    assert groups == {"train": {2, 3, 5}, "test": {1, 4}}
    official = (tmp_path / "CUB_200_2011" / "train_test_split.txt").read_text()
    shutil.copy(tmp_path / "CUB_200_2011" / "train_test_split.txt", tmp_path / "kept")
    (tmp_path / "CUB_200_2011" / "train_test_split.txt").write_text(official.replace(" 1\n", " 0\n"))
    assert open_source(tmp_path).files == source.files
    os.remove(tmp_path / "CUB_200_2011" / "train_test_split.txt")
    assert open_source(tmp_path).files == source.files


def test_quirks_of_captions(tmp_path: Path) -> None:
    files = by_number(open_source(cub(tmp_path)))
    counts = {number: len(file.captions) for number, file in files.items() if len(file.captions) != 10}
    assert counts == {2: 9, 3: 12, 5: 0, 6: 1}
    assert files[1].captions[1] == "picture 1 shows a green thing, in words 1."
    assert files[2].captions == tuple(caption for n, caption in enumerate(birds()[1].captions()) if n != 4)


def test_other_roots_that_are_clear(tmp_path: Path) -> None:
    cub(tmp_path / "a")
    expected = by_number(open_source(tmp_path / "a"))
    inner = by_number(open_source(tmp_path / "a" / "CUB_200_2011"))
    assert {n: (f.name, f.captions) for n, f in inner.items()} == {n: (f.name, f.captions) for n, f in expected.items()}
    cub_gan(tmp_path / "data")
    assert len(by_number(open_source(tmp_path / "data"))) == 20
    for part in (tmp_path / "a" / "cvpr2016_cub").iterdir():
        shutil.move(part, tmp_path / "a" / "CUB_200_2011" / part.name)
    assert len(by_number(open_source(tmp_path / "a" / "CUB_200_2011"))) == 20
    cub(tmp_path / "data")
    assert "both have a folder CUB_200_2011; give one of them" in refused(tmp_path / "data")


def test_the_layout_of_the_gan_repositories(tmp_path: Path) -> None:
    source = open_source(cub_gan(tmp_path))
    for split in ("train", "test"):
        order = [f"{bird.name}.jpg" for bird in gan_order(birds(), TEST_CLASSES, split)]
        assert [file.name for file in source.files[split]] == order
    check_pixels(source)


def test_embeddings_follow_their_captions(tmp_path: Path) -> None:
    source = open_source(cub_gan(tmp_path))
    files = by_number(source)
    for number, file in files.items():
        assert file.embeddings is not None and file.embeddings.dtype == np.float32
        lines = [float(caption.split()[-1][:-1]) for caption in file.captions]
        assert file.embeddings[:, 0].tolist() == [number] * len(lines) and file.embeddings[:, 1].tolist() == lines
    assert len(files[2].captions) == 9
    store = prepare(source, "train", 16)
    for _ in range(5):
        batch = store.batch(range(len(store)), np.random.default_rng().random(len(store)))
        assert batch.embeddings is not None
        for name, caption, row in zip(batch.ids, batch.captions, batch.embeddings, strict=True):
            assert [row[0], row[1]] == [BIRDS[name].number, float(caption.split()[-1][:-1])]


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(empty=st.lists(st.sets(st.integers(0, 9)), min_size=20, max_size=20))
def test_embeddings_follow_whatever_lines_are_empty(empty: list[set[int]], tmp_path: Path) -> None:
    home = cub_gan(tmp_path)
    for bird, lines in zip(birds(), empty, strict=True):
        texts = ["" if n in lines else text for n, text in enumerate(bird.captions())]
        write(home / "text" / f"{bird.name}.txt", "".join(f"{text}\n" for text in texts).encode())
    for number, file in by_number(open_source(home)).items():
        kept = [n for n in range(10) if n not in empty[number - 1]]
        assert file.captions == tuple(birds()[number - 1].captions()[n] for n in kept)
        assert file.embeddings is not None and file.embeddings[:, 1].tolist() == kept


def test_captions_from_the_pickle_where_there_is_no_text(tmp_path: Path) -> None:
    source = open_source(cub_gan(tmp_path, text=False))
    for number, file in by_number(source).items():
        assert len(file.captions) == 5 and file.captions[3] == f"picture {number} shows a " + (
            f"{BIRDS[file.name].colour} thing in words 3"
        )
        assert file.embeddings is not None and file.embeddings[:, :2].tolist() == [[number, line] for line in range(5)]
    check_pixels(source)


def test_one_split_by_names_and_one_by_classes(tmp_path: Path) -> None:
    home = cub_gan(tmp_path, embeddings=False)
    shutil.rmtree(home / "test")
    (home / "testclasses.txt").write_text(f"{CLASSES[3]}\r\n\n{CLASSES[0]}")
    source = open_source(home)
    assert [BIRDS[file.name].number for file in source.files["test"]] == [1, 2, 3, 4, 13, 14, 15, 16]
    assert BIRDS[source.files["train"][0].name].number == 20


def test_crops_by_hand() -> None:
    # A box of 325 x 304 at (60, 27): centre (222, 179), half sides int(243.75) and the largest below 216.67.
    assert code_crop((60, 27, 325, 304)) == (222 - 243, 179 - 243, 222 + 243, 179 + 243)
    assert paper_crop((60, 27, 325, 304)) == (222 - 216, 179 - 216, 222 + 216, 179 + 216)
    for side in range(2, 500):
        left, _, right, _ = paper_crop((500, 500, side, 1))
        assert 4 * side > 3 * (right - left) and 4 * side <= 3 * (right - left + 2)


@pytest.mark.parametrize(
    ("opened", "name", "free", "clipped"),
    [
        # Image 1, 64 x 48, box (20, 12, 20, 26): centre (30, 25), half sides int(19.5) and the largest below 17.33.
        # Image 3, 64 x 48, box (2, 1, 40, 44): centre (22, 23), half sides 33 and 29; the middle of what is left.
        (open_code_crop, "cub-crop-code", (11, 6, 49, 44), (3, 0, 51, 48)),
        (open_paper_crop, "cub-crop-paper", (13, 8, 47, 42), (1, 0, 49, 48)),
    ],
)
def test_cropped_pixels(
    opened: Callable[[Path | None], ImageFiles], name: str, free: tuple[int, ...], clipped: tuple[int, ...],
    tmp_path: Path,
) -> None:  # fmt: skip
    source = opened(cub(tmp_path))
    assert source.name == name
    check_pixels(source)
    chunks = {split: next(iter(source.chunks(split, 16))) for split in source.splits}
    for number, box in ((1, free), (3, clipped)):
        with Image.open(by_number(source)[number].path) as image:
            expected = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC, box=box))
        chunk = chunks["test"]
        pixels = chunk.images[chunk.ids.index(by_number(source)[number].name)]
        assert np.array_equal(pixels.transpose(1, 2, 0), expected)
    whole = open_source(tmp_path)
    assert len({s.fingerprint("test") for s in (whole, source)}) == 2


def test_boxes_are_cut_to_whole_pixels(tmp_path: Path) -> None:
    root = cub(tmp_path)
    edit(root / "CUB_200_2011" / "bounding_boxes.txt", "1 20.0 12.0 20.0 26.0", "1 20.9 12.9 20.9 26.9")
    assert by_number(open_code_crop(root))[1].box == (11, 6, 49, 44)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


A, B = (f"{bird.name}.jpg" for bird in birds()[:2])
TABLES = [
    ("classes.txt", "1 001.", "0 001.", "classes.txt, line 1: expected class 1 and a new name, got 0 001."),
    ("classes.txt", "2 002.Laysan_Albatross", f"2 {CLASSES[0]}", "line 2: expected class 2 and a new name"),
    ("classes.txt", "3 003.Sooty_Albatross", "3 003.Sooty Albatross", "classes.txt, line 3: expected 2 columns"),
    ("classes.txt", "3 003.Sooty_Albatross", "", "classes.txt, line 4: expected class 3"),
    ("images.txt", f"1 {A}", f"x {A}", "images.txt, line 1: expected a number from 1 on, got 'x'"),
    ("images.txt", f"1 {A}", f"-1 {A}", "images.txt, line 1: expected a number"),
    ("images.txt", f"1 {A}", f"{'9' * 5000} {A}", "images.txt, line 1: expected a number"),
    ("images.txt", f"1 {A}", "1", "images.txt, line 1: expected 2 columns"),
    ("images.txt", f"2 {B}", f"1 {B}", f"images.txt, line 2: image 1, {B}, is listed twice"),
    ("images.txt", f"2 {B}", f"2 {A}", f"images.txt, line 2: image 2, {A}, is listed twice"),
    ("images.txt", f"1 {A}", "1 ../../../etc/passwd.jpg", "images.txt, line 1: the image must be relative"),
    ("images.txt", f"1 {A}", "1 /etc/passwd.jpg", "images.txt, line 1: the image must be relative"),
    ("images.txt", f"1 {A}", f"1 {A[:-4]}.png", "images.txt, line 1: expected CLASS/IMAGE.jpg"),
    ("images.txt", f"1 {A}", "1 a.jpg", "images.txt, line 1: expected CLASS/IMAGE.jpg"),
    ("images.txt", f"1 {A}", f"1 {A[:-5]}\x07.jpg", "images.txt, line 1: the image must be the name of a file"),
    ("images.txt", f"1 {A}", f"1 {A[:-4]}x.jpg", f"{A[:-4]}x.jpg: no such image"),
    ("image_class_labels.txt", "1 1\n", "1 0\n", "labels.txt, line 1: class 0 is none of 1 to 5"),
    ("image_class_labels.txt", "1 1\n", "1 6\n", "labels.txt, line 1: class 6 is none of 1 to 5"),
    ("image_class_labels.txt", "1 1\n", "1 2\n", f"line 1: class 2 is {CLASSES[1]}, but the image is {A}"),
    ("image_class_labels.txt", "1 1\n", "1 1.0\n", "labels.txt, line 1: expected a number"),
    ("image_class_labels.txt", "1 1\n", "99 1\n", "labels.txt, line 1: image 99 is not in images.txt"),
    ("image_class_labels.txt", "1 1\n", "2 1\n", "labels.txt, line 2: image 2 stands here twice"),
    ("image_class_labels.txt", "1 1\n", "\n", "image_class_labels.txt: no line for image 1"),
    ("bounding_boxes.txt", "1 20.0 12.0", "1 20.0", "bounding_boxes.txt, line 1: expected 5 columns"),
    ("bounding_boxes.txt", "1 20.0 12.0 20.0", "1 20.0 12.0 nan", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0 12.0 20.0", "1 20.0 12.0 inf", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0 12.0 20.0", "1 20.0 12.0 1e300", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0 12.0 20.0", "1 20.0 12.0 0.9", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0 12.0 20.0 26.0", "1 20 12 1 1", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0", "1 -20.0", "line 1: expected left, top, width and height"),
    ("bounding_boxes.txt", "1 20.0", "1 x", "line 1: expected left, top, width and height in pixels, got x 12.0"),
    ("bounding_boxes.txt", "20 20.0", "21 20.0", "line 20: image 21 is not in images.txt"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "said"), TABLES, ids=range(len(TABLES)))
def test_bad_lines_of_the_publisher_s_tables(file: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    root = cub(tmp_path)
    edit(root / "CUB_200_2011" / file, old, new)
    assert said in refused(root, open_code_crop)
    if file == "bounding_boxes.txt":
        assert open_source(root).size("train") == 12


def test_a_box_beside_the_image_is_an_error_at_that_image(tmp_path: Path) -> None:
    root = cub(tmp_path)
    edit(root / "CUB_200_2011" / "bounding_boxes.txt", "1 20.0", "1 500.0")
    with pytest.raises(UserError, match=f"{A}.*outside"):
        list(open_code_crop(root).chunks("test", 16))


REED = "cvpr2016_cub/"
TEXT = f"{REED}text_c10/"


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


TEXTS: list[tuple[str, bytes | None, str]] = [
    (f"{REED}testclasses.txt", b"006.Least_Auklet\n", "testclasses.txt, line 1: '006.Least_Auklet' is none of the 5"),
    (f"{REED}testclasses.txt", f"{CLASSES[0]}\n{CLASSES[0]}\n".encode(), "testclasses.txt, line 2: '001.Black_footed"),
    (f"{REED}testclasses.txt", f"{CLASSES[0]}\n{CLASSES[1]}\n".encode(), "is in the train split too, by"),
    (f"{REED}testclasses.txt", b"../../x\n", "testclasses.txt, line 1: '../../x' is none of the 5 classes"),
    (f"{REED}testclasses.txt", b"caf\xe9\n", "testclasses.txt, line 1: not UTF-8"),
    (f"{REED}testclasses.txt", None, "the test split of the zero-shot division by classes is missing"),
    (f"{TEXT}{A[:-4]}.txt", None, f"{A[:-4]}.txt: no such file; captions of 1 test images are missing"),
    (f"{TEXT}{A[:-4]}.txt", b"fine\na\x00b\n", f"{A[:-4]}.txt, line 2: control character '\\x00'"),
    (f"{TEXT}{A[:-4]}.txt", b"fine\n\n" + b"x" * 1_000_000, f"{A[:-4]}.txt, line 3: a caption of 1,000,000"),
    (f"{TEXT}{A[:-4]}.txt", b"fine\ncaf\xe9\n", f"{A[:-4]}.txt, line 2: not UTF-8"),
    (f"{TEXT}{CLASSES[0]}/Other_1.txt", b"a bird\n", f"{CLASSES[0]}/Other_1.txt: captions of an image that the"),
    (f"{TEXT}009.Other/Other_1.txt", b"a bird\n", "009.Other/Other_1.txt: captions of an image that the data set"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "data", "said"), TEXTS, ids=range(len(TEXTS)))
def test_bad_captions_and_class_lists(file: str, data: bytes | None, said: str, tmp_path: Path) -> None:
    root = cub(tmp_path)
    if data is None:
        os.remove(root / file)
    else:
        write(root / file, data)
    message = refused(root)
    assert said in message and str(tmp_path) in message


def test_what_else_lies_about_is_ignored(tmp_path: Path) -> None:
    root = cub(tmp_path)
    before = open_source(root).files
    for name in (".DS_Store", "notes.txt"):
        write(root / TEXT / name, b"x")
    write(root / TEXT / CLASSES[0] / "._a.txt", b"\xff")
    write(root / "CUB_200_2011" / "images" / CLASSES[0] / "Thumbs.db", b"x")
    assert open_source(root).files == before


NAMES = [bird.name for bird in gan_order(birds(), TEST_CLASSES, "test")]
GROUPS = [bird.group for bird in gan_order(birds(), TEST_CLASSES, "test")]
ROWS = [embedding(bird, 10) for bird in gan_order(birds(), TEST_CLASSES, "test")]
EMBEDDINGS = "test/char-CNN-RNN-embeddings.pickle"
PICKLES: list[tuple[str, object, str]] = [
    ("test/filenames.pickle", [*NAMES, "001.X/Y"], "entry 8: names an image that is not in the data set, '001.X/Y'"),
    ("test/filenames.pickle", [*NAMES, "../" * 9 + "etc/passwd"], "entry 8: names an image that is not in the data"),
    ("test/filenames.pickle", [*NAMES, NAMES[2]], f"entry 8: names an image twice, '{NAMES[2]}'"),
    ("test/filenames.pickle", dict.fromkeys(NAMES), "expected a list of names"),
    ("test/class_info.pickle", GROUPS[:-1], "7 classes for the 8 images"),
    ("test/class_info.pickle", [group - 1 for group in GROUPS], "entry 0: class 3, but"),
    ("test/class_info.pickle", GROUPS[::-1], f"entry 0: class 1, but {NAMES[0]}.jpg is of class 4"),
    (EMBEDDINGS, ROWS[:-1], "embeddings of 7 images, but test has 8"),
    (EMBEDDINGS, [rows[:7] for rows in ROWS], f"{NAMES[0]}.jpg: 7 embeddings, but 10 captions; move the file away"),
    (EMBEDDINGS, [rows[:9] for rows in ROWS], f"{NAMES[0]}.jpg: 9 embeddings, but 10 captions; move the file away"),
    (EMBEDDINGS, [*ROWS[:-1], ROWS[-1] * np.nan], "image 7: its embeddings are not all finite"),
    (EMBEDDINGS, [*ROWS[:-1], ROWS[-1][:, :3]], "image 7: embeddings of the shape [10, 3]"),
]


@pytest.mark.parametrize(("file", "value", "said"), PICKLES, ids=range(len(PICKLES)))
def test_bad_pickles(file: str, value: object, said: str, tmp_path: Path) -> None:
    home = cub_gan(tmp_path)
    (home / file).write_bytes(pickle.dumps(value, 2))
    message = refused(home)
    assert said in message and str(home / file) in message


def test_an_image_in_both_lists_is_an_error_but_a_shared_class_is_for_data_check(tmp_path: Path) -> None:
    home = cub_gan(tmp_path, embeddings=False)
    names = {split: [bird.name for bird in gan_order(birds(), TEST_CLASSES, split)] for split in ("train", "test")}
    for split in names:
        os.remove(home / split / "class_info.pickle")
    shared = names["train"][0]
    (home / "test" / "filenames.pickle").write_bytes(pickle.dumps([*names["test"], shared], 0))
    assert f"{shared}.jpg is in the train split too" in refused(home)
    (home / "train" / "filenames.pickle").write_bytes(pickle.dumps(names["train"][1:], 0))
    source = open_source(home)
    assert source.zero_shot and source.files["train"][0].label == source.files["test"][-1].label


def test_captions_pickle_that_does_not_fit(tmp_path: Path) -> None:
    home = cub_gan(tmp_path, text=False)
    words = {0: "<end>", 1: "a", 2: "b\x1b[2J"}
    value = [[[1]] * 1, [[1]], words, {word: number for number, word in words.items()}]
    (home / "captions.pickle").write_bytes(python2(value))
    assert "1 captions of the train split do not divide by 12 images" in refused(home)
    (home / "captions.pickle").write_bytes(python2([[[2]] * 12, [[1]] * 8, *value[2:]]))
    assert "control character '\\x1b' in the caption" in refused(home)
    for split in ("train", "test"):
        os.remove(home / split / "filenames.pickle")
    (home / "trainvalclasses.txt").write_text("\n".join(CLASSES[1:3] + CLASSES[4:]))
    (home / "testclasses.txt").write_text("\n".join([CLASSES[0], CLASSES[3]]))
    message = refused(home)
    assert "captions.pickle: is in the order of train/filenames.pickle, which is not there" in message
    shutil.move(home / "captions.pickle", tmp_path / "aside")
    assert "captions are missing" in refused(home)


def test_embeddings_without_an_order_are_refused(tmp_path: Path) -> None:
    home = cub_gan(tmp_path)
    os.remove(home / "train" / "filenames.pickle")
    (home / "trainvalclasses.txt").write_text("\n".join(CLASSES[1:3] + CLASSES[4:]))
    assert "char-CNN-RNN-embeddings.pickle: is in the order of train/filenames.pickle" in refused(home)


CUB_PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
REED_PAGE = "https://github.com/reedscot/cvpr2016"
MISSING = [
    ("CUB_200_2011", ["no folder CUB_200_2011 in it or in birds/", CUB_PAGE]),
    ("CUB_200_2011/images", ["the folder of images is missing", CUB_PAGE]),
    ("CUB_200_2011/images.txt", ["images.txt is missing", CUB_PAGE]),
    ("CUB_200_2011/classes.txt", ["classes.txt is missing", CUB_PAGE]),
    ("CUB_200_2011/image_class_labels.txt", ["image_class_labels.txt is missing", CUB_PAGE]),
    ("CUB_200_2011/bounding_boxes.txt", ["bounding_boxes.txt is missing", CUB_PAGE]),
    ("cvpr2016_cub/text_c10", ["captions are missing; expected text_c10 or text or captions.pickle", REED_PAGE]),
    ("cvpr2016_cub/trainvalclasses.txt", ["train split", "filenames.pickle or trainvalclasses.txt", REED_PAGE]),
    ("cvpr2016_cub/testclasses.txt", ["test split", "filenames.pickle or testclasses.txt", REED_PAGE]),
    (f"CUB_200_2011/images/{A}", [f"{A}: no such image, but it is in the split of", CUB_PAGE]),
    (f"CUB_200_2011/images/{CLASSES[4]}", [f"{CLASSES[4]}/", "no such image, but it and 3 more are in"]),
]


@pytest.mark.parametrize(("part", "said"), MISSING, ids=[part for part, _ in MISSING])
def test_what_is_missing_is_named_with_where_it_was_looked_for(part: str, said: list[str], tmp_path: Path) -> None:
    root = cub(tmp_path)
    if (root / part).is_dir():
        shutil.rmtree(root / part)
    else:
        os.remove(root / part)
    message = refused(root, open_paper_crop)
    assert str(tmp_path) in message and all(words in message for words in said)


def test_no_root_and_no_folder(tmp_path: Path) -> None:
    assert refused(None) == "cub: which folder? give it with --root DIR"
    assert "cub-crop-code: which folder?" in refused(None, open_code_crop)
    assert "no such folder" in refused(tmp_path / "no")
    write(tmp_path / "CUB_200_2011" / "classes.txt" / "x", b"")
    assert "classes.txt: is not a file" in refused(tmp_path)


LINKS = [
    f"CUB_200_2011/images/{A}",
    f"CUB_200_2011/images/{CLASSES[2]}",
    "CUB_200_2011/images",
    "CUB_200_2011/classes.txt",
    "cvpr2016_cub/text_c10",
    f"{TEXT}{CLASSES[2]}",
    f"{TEXT}{A[:-4]}.txt",
    "cvpr2016_cub/testclasses.txt",
]


@pytest.mark.parametrize("part", LINKS)
def test_links_that_leave_the_root_are_not_followed(part: str, tmp_path: Path) -> None:
    root = cub(tmp_path / "root")
    shutil.move(root / part, tmp_path / "outside")
    (root / part).symlink_to(tmp_path / "outside")
    assert "is a link that leaves" in refused(root)


def test_a_pickle_of_a_stranger_runs_nothing(tmp_path: Path) -> None:
    home = cub_gan(tmp_path)
    for file in ("train/filenames.pickle", "test/class_info.pickle", EMBEDDINGS, "captions.pickle"):
        shutil.copytree(home, tmp_path / "copy")
        if file == "captions.pickle":
            shutil.rmtree(tmp_path / "copy" / "text")
        (tmp_path / "copy" / file).write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "ran").encode())
        assert "it asks for 'os.system'" in refused(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")
    assert not (tmp_path / "ran").exists()


def test_a_grey_image_is_read(tmp_path: Path) -> None:
    [grey] = [file for file in by_number(open_source(cub(tmp_path))).values() if BIRDS[file.name].colour == "grey"]
    with Image.open(grey.path) as image:
        assert image.mode == "L"
