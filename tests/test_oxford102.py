import gzip
import os
import pickle
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from layouts_birds import (
    COLOURS,
    FLOWER_CLASSES,
    TEST_FLOWER_CLASSES,
    Picture,
    flowers,
    gan_order,
    oxford102,
    oxford102_gan,
)
from scipy.io import loadmat, savemat

from t2ibench.datasets.captioned import Published, Source
from t2ibench.datasets.image_files import ImageFile, ImageFiles
from t2ibench.datasets.oxford102 import open_source, read_labels
from t2ibench.errors import UserError

FLOWERS = {f"{flower.name.removeprefix('jpg/')}.jpg": flower for flower in flowers()}


def refused(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        open_source(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def by_number(source: ImageFiles) -> dict[int, ImageFile]:
    return {FLOWERS[file.name].number: file for files in source.files.values() for file in files}


def check_pixels(source: ImageFiles) -> None:
    """The middle of each image must have the colour that its own captions name."""
    for split in source.splits:
        [chunk] = source.chunks(split, 16)
        for image, name, captions, label in zip(chunk.images, chunk.ids, chunk.captions, chunk.labels, strict=True):
            flower = FLOWERS[name]
            assert all(c.startswith(f"picture {flower.number} shows a {flower.colour} ") for c in captions)
            assert np.abs(image[:, 8, 8].astype(int) - COLOURS[flower.colour]).max() < 12
            assert label == flower.group - 1


def test_the_publisher_s_layout(tmp_path: Path) -> None:
    source = open_source(oxford102(tmp_path))
    assert isinstance(source, Source) and isinstance(source, Published)
    assert source.name == "oxford102" and source.zero_shot and source.splits == ("train", "test")
    assert source.expected == {"train": 7_034, "test": 1_155} and sum(source.expected.values()) == 8_189
    assert len(source.class_names) == 102 and source.class_names[76] == "class 77"
    assert (source.size("train"), source.size("test")) == (12, 4)
    assert [file.name for file in source.files["test"]] == [n for n, f in FLOWERS.items() if f.group == 1]
    counts = {number: len(file.captions) for number, file in by_number(source).items() if len(file.captions) != 10}
    assert counts == {2: 9, 3: 12, 5: 0, 6: 1}
    check_pixels(source)


def test_the_split_is_by_class_and_not_setid(tmp_path: Path) -> None:
    before = open_source(oxford102(tmp_path))
    groups = {split: {FLOWERS[file.name].group for file in before.files[split]} for split in before.splits}
    assert groups == {"train": {50, 77, 102}, "test": {1}}
    os.remove(tmp_path / "setid.mat")
    assert open_source(tmp_path).files == before.files


def test_without_labels_the_folders_of_captions_say_the_classes(tmp_path: Path) -> None:
    assert open_source(oxford102(tmp_path / "a")).fingerprint("test")
    labelled, bare = open_source(tmp_path / "a"), open_source(oxford102(tmp_path / "b", labels=False))
    for number, file in by_number(bare).items():
        other = by_number(labelled)[number]
        assert (file.name, file.captions, file.label) == (other.name, other.captions, other.label)
    check_pixels(bare)


def test_other_roots_that_are_clear(tmp_path: Path) -> None:
    oxford102(tmp_path / "flowers-102")
    reed = tmp_path / "flowers-102" / "cvpr2016_flowers"
    assert open_source(tmp_path).size("train") == open_source(tmp_path / "flowers-102").size("train") == 12
    shutil.move(reed, tmp_path / "cvpr2016_flowers")
    check_pixels(open_source(tmp_path))
    for part in (tmp_path / "cvpr2016_flowers").iterdir():
        shutil.move(part, tmp_path / part.name)
    check_pixels(open_source(tmp_path))
    oxford102_gan(tmp_path)
    assert "both have a folder jpg; give one of them as root" in refused(tmp_path)


def test_the_layout_of_the_gan_repositories(tmp_path: Path) -> None:
    source = open_source(oxford102_gan(tmp_path))
    assert [file.name for file in source.files["train"]] == [
        f"{flower.name.removeprefix('jpg/')}.jpg" for flower in gan_order(flowers(), TEST_FLOWER_CLASSES, "train")
    ]
    for number, file in by_number(source).items():
        lines = [float(caption.split()[-1][:-1]) for caption in file.captions]
        assert file.embeddings is not None and file.embeddings[:, 0].tolist() == [number] * len(lines)
        assert file.embeddings[:, 1].tolist() == lines and len(lines) == (9 if number == 2 else 10)
    check_pixels(source)
    assert open_source(tmp_path).files["test"][0].captions == source.files["test"][0].captions


LABELS = np.array([[flower.group for flower in flowers()]], np.uint8)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64])
def test_labels_of_any_number_are_read(kind: type, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "imagelabels.mat"
    savemat(path, {"labels": LABELS.astype(kind), "other": np.ones(3)}, do_compression=compressed)
    assert read_labels(path) == LABELS[0].tolist()
    savemat(path, {"labels": LABELS.astype(kind)}, format="4")
    assert read_labels(path) == LABELS[0].tolist()


def changed(value: float, at: int = 4) -> np.ndarray:
    labels = LABELS.astype(np.float64)
    labels[0, at] = value
    return labels


MATRICES = [
    ({"label": LABELS}, "expected `labels` of 1 x N numbers, got 'label' uint8 [1, 16]"),
    ({}, "expected `labels` of 1 x N numbers, got nothing"),
    ({"labels": LABELS.T}, "got 'labels' uint8 [16, 1]"),
    ({"labels": LABELS.reshape(4, 4)}, "got 'labels' uint8 [4, 4]"),
    ({"labels": LABELS.reshape(1, 4, 4)}, "got 'labels' uint8 [1, 4, 4]"),
    ({"labels": np.zeros((1, 0))}, "got 'labels' double [1, 0]"),
    ({"labels": "a bird"}, "got 'labels' char"),
    ({"labels": LABELS > 5}, "got 'labels' logical [1, 16]"),
    ({"labels": LABELS + 0j}, "expected `labels` of 1 x N whole numbers, got complex128"),
    ({"labels": np.array([[LABELS, 1]], object)}, "got 'labels' cell [1, 2]"),
    ({"labels": {"a": LABELS}}, "got 'labels' struct [1, 1]"),
    ({"labels": changed(0)}, "image 5 is of class 0.0; expected 1 to 102"),
    ({"labels": changed(103)}, "image 5 is of class 103.0; expected 1 to 102"),
    ({"labels": changed(1.5)}, "image 5 is of class 1.5; expected 1 to 102"),
    ({"labels": changed(np.nan)}, "image 5 is of class nan; expected 1 to 102"),
    ({"labels": changed(-np.inf)}, "image 5 is of class -inf; expected 1 to 102"),
    ({"labels": np.ones((1, 20_000))}, "at most 131,072"),
    ({"labels": LABELS[:, :-1]}, "image_00016.jpg: "),
    ({"labels": np.ones((1, 17))}, "image_00017.jpg: no such image"),
    ({"labels": changed(1, at=0)}, "class_00050/image_00001.txt: captions of an image that the data set does not"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), MATRICES, ids=range(len(MATRICES)))
def test_labels_that_are_wrong_are_named(content: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    root = oxford102(tmp_path)
    savemat(root / "imagelabels.mat", content)
    assert said in refused(root)


def bomb(rows: int, columns: int, size: int, unpacked: int) -> bytes:
    """Return a MATLAB file of one packed matrix of bytes that announces a shape and a size."""
    flags, name = struct.pack("<IIII", 6, 8, 9, 0), struct.pack("<II", 1, 6) + b"labels\0\0"
    body = flags + struct.pack("<IIii", 5, 8, rows, columns) + name + struct.pack("<II", 2, size)
    inner = struct.pack("<II", 14, len(body) + size) + body
    packer = zlib.compressobj(9)
    packed = packer.compress(inner) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(unpacked >> 20))
    packed += packer.flush()
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"labels\n1 2 3\n",
        b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + bytes(100),
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        gzip.compress(bytes(100)),
        pickle.dumps({"labels": LABELS}),
        bomb(1, 2**31 - 1, 2**31 - 1, 0),
        bomb(1, 100_000_000, 100_000_000, 100 << 20),
        bomb(1, 16, 100 << 20, 100 << 20),
        bomb(1, 16, 99_000_000, 0),
        bomb(-1, -16, 16, 0),
        bomb(0, 16, 16, 0),
    ],
    ids=range(12),
)
def test_other_files_in_place_of_labels_are_named_in_little_memory(data: bytes, tmp_path: Path) -> None:
    root = oxford102(tmp_path)
    (root / "imagelabels.mat").write_bytes(data)
    tracemalloc.start()
    try:
        assert "imagelabels.mat: " in refused(root)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_every_cut_of_the_labels_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "imagelabels.mat"
    savemat(path, {"labels": LABELS}, do_compression=True)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="imagelabels.mat: "):
            read_labels(path)


FLOWERS_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
REED_PAGE = "https://github.com/reedscot/cvpr2016"
REED = "cvpr2016_flowers"
MISSING = [
    ("jpg", ["no folder jpg in it, in flowers-102/ or in flowers/", FLOWERS_PAGE]),
    ("jpg/image_00002.jpg", ["jpg/image_00002.jpg: no such image, but it is in the split of", "trainvalclasses.txt"]),
    (f"{REED}/text_c10", ["captions are missing; expected text_c10 or text or captions.pickle", REED_PAGE]),
    (f"{REED}/text_c10/class_00102/image_00002.txt", ["class_00102/image_00002.txt: no such file"]),
    (f"{REED}/trainvalclasses.txt", ["train split", "train/filenames.pickle or trainvalclasses.txt", REED_PAGE]),
    (f"{REED}/testclasses.txt", ["test split", "test/filenames.pickle or testclasses.txt", REED_PAGE]),
]


@pytest.mark.parametrize(("part", "said"), MISSING, ids=[part for part, _ in MISSING])
def test_what_is_missing_is_named_with_where_it_was_looked_for(part: str, said: list[str], tmp_path: Path) -> None:
    root = oxford102(tmp_path)
    if (root / part).is_dir():
        shutil.rmtree(root / part)
    else:
        os.remove(root / part)
    message = refused(root)
    assert str(tmp_path) in message and all(words in message for words in said)


def test_nothing_says_the_classes(tmp_path: Path) -> None:
    root = oxford102(tmp_path, labels=False)
    shutil.rmtree(root / REED / "text_c10")
    message = refused(root)
    assert "classes are missing; expected imagelabels.mat or text_c10 or text" in message and FLOWERS_PAGE in message
    assert refused(None) == "oxford102: which folder? give it with --root DIR"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("class_00103/image_00001", "expected class_00001 to class_00102 and image_00000.txt"),
        ("class_00000/image_00001", "expected class_00001 to class_00102 and image_00000.txt"),
        ("class_1/image_00001", "expected class_00001 to class_00102"),
        ("class_00001/flower", "expected class_00001 to class_00102"),
        ("class_00001/image_0000١", "expected class_00001 to class_00102"),
        ("class_00077/image_00001", "image 1 is in the folder of class 50 too"),
    ],
)
def test_folders_of_captions_that_say_no_class(name: str, said: str, tmp_path: Path) -> None:
    root = oxford102(tmp_path, labels=False)
    path = root / REED / "text_c10" / f"{name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("a flower\n")
    message = refused(root)
    assert said in message and str(path) in message


def test_an_image_without_a_class_is_named(tmp_path: Path) -> None:
    for labels in (True, False):
        root = oxford102(tmp_path / str(labels), labels=labels)
        (root / "jpg" / "Thumbs.db").write_bytes(b"x")
        assert open_source(root).size("train") == 12
        shutil.copy(root / "jpg" / "image_00001.jpg", root / "jpg" / "image_00017.jpg")
        assert "jpg/image_00017.jpg: " in refused(root)
        os.remove(root / "jpg" / "image_00017.jpg")
        shutil.copy(root / "jpg" / "image_00001.jpg", root / "jpg" / "image_00000.jpg")
        assert "jpg/image_00000.jpg: " in refused(root)


@pytest.mark.parametrize("part", ["jpg/image_00002.jpg", "imagelabels.mat", "jpg", f"{REED}/text_c10/class_00102"])
def test_links_that_leave_the_root_are_not_followed(part: str, tmp_path: Path) -> None:
    root = oxford102(tmp_path / "root")
    shutil.move(root / part, tmp_path / "outside")
    (root / part).symlink_to(tmp_path / "outside")
    assert "is a link that leaves" in refused(root)


def test_class_info_is_checked(tmp_path: Path) -> None:
    home = oxford102_gan(tmp_path)
    listed: list[Picture] = gan_order(flowers(), TEST_FLOWER_CLASSES, "train")
    (home / "train" / "class_info.pickle").write_bytes(pickle.dumps([flower.group - 1 for flower in listed]))
    assert "class_info.pickle, entry 0: class" in refused(home)
    (home / "train" / "filenames.pickle").write_bytes(pickle.dumps(["jpg/image_00099"]))
    assert "entry 0: names an image that is not in the data set, 'jpg/image_00099'" in refused(home)


def test_the_fixture_is_what_matlab_would_write(tmp_path: Path) -> None:
    labels = loadmat(oxford102(tmp_path) / "imagelabels.mat")["labels"]
    assert labels.shape == (1, 16) and set(labels[0]) == set(FLOWER_CLASSES)
