"""Small, faithful copies of CUB-200-2011 and Oxford-102 with Reed's captions, in every layout that is about."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 50, 210), "yellow": (230, 210, 30),
    "pink": (240, 130, 190), "brown": (120, 70, 20), "grey": (128, 128, 128),
}  # fmt: skip
CLASSES = (
    "001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani",
    "005.Crested_Auklet",
)  # fmt: skip
TEST_CLASSES = (1, 4)
FLOWER_CLASSES = (77, 50, 102, 1)
TEST_FLOWER_CLASSES = (1,)
GREY = 7
WIDTH = 6
"""Numbers in an embedding; 1,024 in the real ones."""


@dataclass(frozen=True)
class Picture:
    """One image: a field of one colour, with a box of another over its centre, which its captions name."""

    number: int
    group: int
    """The class, counted from 1."""
    name: str
    """How the lists call it, without .jpg."""
    colour: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    """Left, top, width, height."""

    def captions(self, count: int = 10) -> list[str]:
        return [f"picture {self.number} shows a {self.colour} thing, in words {line}." for line in range(count)]

    def draw(self, path: Path) -> None:
        left, top, width, height = self.box
        pixels = np.full((self.size[1], self.size[0], 3), 245, np.uint8)
        pixels[top : top + height, left : left + width] = COLOURS[self.colour]
        image = Image.fromarray(pixels)
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if self.number == GREY else image).save(path, quality=95, subsampling=0)


def _picture(number: int, group: int, name: str) -> Picture:
    colour = "grey" if number == GREY else list(COLOURS)[number % 6]
    size = (64, 48) if number % 2 else (50, 60)
    return Picture(number, group, name, colour, size, (2, 1, 40, 44) if number % 3 == 0 else (20, 12, 20, 26))


def birds() -> list[Picture]:
    """Return the 20 birds in the order of `images.txt`, which is not that of their names."""
    pictures = []
    for number in range(1, 21):
        group = (number - 1) // 4 + 1
        stem = CLASSES[group - 1][4:].title()
        pictures.append(_picture(number, group, f"{CLASSES[group - 1]}/{stem}_{(7 * number) % 23:04}_{900 - number}"))
    return pictures


def flowers() -> list[Picture]:
    """Return the 16 flowers; neighbours are of different classes."""
    return [_picture(n, FLOWER_CLASSES[n % 4], f"jpg/image_{n:05}") for n in range(1, 17)]


def cub(root: Path) -> Path:
    """Write the publisher's layout with Reed's archive beside it; return the folder that holds both.

    Quirks: captions with a broken space (image 1), an empty line (2), 12 (3), none (5) and 1 (6); a grey image.
    """
    _publish(root / "CUB_200_2011")
    reed = root / "cvpr2016_cub"
    counts = {3: 12, 5: 0, 6: 1}
    _write_texts(reed / "text_c10", birds(), lambda bird: bird.name, counts)
    _lines(reed / "allclasses.txt", CLASSES)
    _lines(reed / "testclasses.txt", [CLASSES[group - 1] for group in TEST_CLASSES])
    _lines(reed / "trainvalclasses.txt", [name for name in CLASSES if int(name[:3]) not in TEST_CLASSES])
    return root


def cub_gan(root: Path, *, text: bool = True, embeddings: bool = True) -> Path:
    """Write `birds/` as StackGAN and AttnGAN want it, without class lists; return that folder.

    The order in the pickles is none of the publisher's. Without `text`, captions are in `captions.pickle` only, 5
    an image. An embedding of line L (from 0) of image N begins with N, L.
    """
    home = root / "birds"
    _publish(home / "CUB_200_2011")
    if text:
        _write_texts(home / "text", birds(), lambda bird: bird.name, {})
    splits = {split: gan_order(birds(), TEST_CLASSES, split) for split in ("train", "test")}
    for split, listed in splits.items():
        _write_pickles(home / split, listed, 10 if text else 5, embeddings)
    (home / "captions.pickle").write_bytes(captions_pickle(splits["train"], splits["test"]))
    return home


def oxford102(root: Path, *, labels: bool = True) -> Path:
    """Write the publisher's layout with Reed's archive beside it; return the folder that holds both."""
    for flower in flowers():
        flower.draw(root / f"{flower.name}.jpg")
    if labels:
        savemat(root / "imagelabels.mat", {"labels": np.array([[flower.group for flower in flowers()]], np.uint8)})
    numbers = np.arange(1, 17, dtype=np.uint16)[None]
    savemat(root / "setid.mat", {"trnid": numbers[:, ::4], "valid": numbers[:, 1::4], "tstid": numbers[:, 2:]})
    reed = root / "cvpr2016_flowers"
    _write_texts(reed / "text_c10", flowers(), flower_text, {3: 12, 5: 0, 6: 1})
    named = {group: f"class_{group:05}" for group in FLOWER_CLASSES}
    _lines(reed / "testclasses.txt", [named[group] for group in TEST_FLOWER_CLASSES])
    _lines(reed / "trainvalclasses.txt", [named[g] for g in FLOWER_CLASSES if g not in TEST_FLOWER_CLASSES])
    return root


def oxford102_gan(root: Path) -> Path:
    """Write `flowers/` as StackGAN wants it, with embeddings and without the publisher's labels."""
    home = root / "flowers"
    for flower in flowers():
        flower.draw(home / f"{flower.name}.jpg")
    _write_texts(home / "text_c10", flowers(), flower_text, {})
    for split in ("train", "test"):
        _write_pickles(home / split, gan_order(flowers(), TEST_FLOWER_CLASSES, split), 10, True)
    return home


def flower_text(flower: Picture) -> str:
    return f"class_{flower.group:05}/{flower.name.removeprefix('jpg/')}"


def gan_order(pictures: list[Picture], test_classes: tuple[int, ...], split: str) -> list[Picture]:
    """Return the pictures of a split in the order of its pickles."""
    return [picture for picture in pictures[::-1] if (picture.group in test_classes) == (split == "test")]


def captions_pickle(train: list[Picture], test: list[Picture]) -> bytes:
    """Return AttnGAN's `captions.pickle`: 5 captions an image, the words of each by number."""
    split = [[c.rstrip(".").replace(",", "").split() for p in part for c in p.captions(5)] for part in (train, test)]
    words = ["<end>", *sorted({word for part in split for caption in part for word in caption})]
    number = {word: n for n, word in enumerate(words)}
    numbers = [[[number[word] for word in caption] + [0, 0] for caption in part] for part in split]
    return python2([*numbers, dict(enumerate(words)), number])


def python2(value: object) -> bytes:
    """Return a pickle as Python 2 writes it with protocol 2; `bytes` here are its strings, `str` its unicode."""
    return b"\x80\x02" + _Python2().written(value) + b"."


class _Python2:
    def __init__(self) -> None:
        self.memo: dict[object, int] = {}
        self.puts = 0

    def put(self) -> bytes:
        self.puts += 1
        index = self.puts - 1
        return b"q" + bytes([index]) if index < 256 else b"r" + index.to_bytes(4, "little")

    def once(self, key: object, written: bytes) -> bytes:
        """Return what is written the first time, and from then on where it stands in the memo."""
        if key in self.memo:
            index = self.memo[key]
            return b"h" + bytes([index]) if index < 256 else b"j" + index.to_bytes(4, "little")
        self.memo[key] = self.puts
        return written + self.put()

    def written(self, value: object) -> bytes:
        if isinstance(value, int):
            return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + value.to_bytes(4, "little", signed=True)
        if isinstance(value, str):
            raw = value.encode()
            return b"X" + len(raw).to_bytes(4, "little") + raw + self.put()
        if isinstance(value, bytes):
            short = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + len(value).to_bytes(4, "little")
            return short + value + self.put()
        if isinstance(value, list):
            return b"]" + self.put() + b"(" + b"".join(map(self.written, value)) + b"e"
        if isinstance(value, dict):
            pairs = [self.written(item) for pair in value.items() for item in pair]
            return b"}" + self.put() + b"(" + b"".join(pairs) + b"u"
        assert isinstance(value, np.ndarray)
        return self.array(value)

    def array(self, value: np.ndarray) -> bytes:
        made = self.once("reconstruct", b"cnumpy.core.multiarray\n_reconstruct\n")
        made += self.once("ndarray", b"cnumpy\nndarray\n") + b"K\x00\x85" + self.put()
        made += self.once("b", b"U\x01b") + b"\x87" + self.put() + b"R" + self.put()
        made += b"(K\x01(" + b"".join(map(self.written, value.shape)) + b"t" + self.put()
        code = value.dtype.str[1:]
        if code not in self.memo:
            made += self.once("dtype", b"cnumpy\ndtype\n") + self.written(code.encode()) + b"K\x00K\x01\x87"
            made += self.put() + b"R" + self.once(code, b"")
            minus = b"J\xff\xff\xff\xff"
            made += b"(K\x03" + self.written(value.dtype.str[:1].encode()) + b"NNN" + 2 * minus + b"K\x00t"
            made += self.put() + b"b"
        else:
            made += self.once(code, b"")
        return made + b"\x89" + self.written(value.tobytes()) + b"t" + self.put() + b"b"


def _publish(folder: Path) -> None:
    pictures = birds()
    for bird in pictures:
        bird.draw(folder / "images" / f"{bird.name}.jpg")
    _lines(folder / "images.txt", [f"{bird.number} {bird.name}.jpg" for bird in pictures])
    _lines(folder / "classes.txt", [f"{int(name[:3])} {name}" for name in CLASSES])
    _lines(folder / "image_class_labels.txt", [f"{bird.number} {bird.group}" for bird in pictures])
    _lines(folder / "train_test_split.txt", [f"{bird.number} {bird.number % 2}" for bird in pictures])
    boxes = [f"{bird.number} {' '.join(f'{side + 0.0}' for side in bird.box)}" for bird in pictures]
    _lines(folder / "bounding_boxes.txt", boxes)


def _write_texts(
    folder: Path, pictures: list[Picture], named: Callable[[Picture], str], counts: dict[int, int]
) -> None:
    for picture in pictures:
        lines = picture.captions(counts.get(picture.number, 10))
        if picture.number == 1:
            lines[1] = lines[1].replace(" shows ", "\ufffd\ufffdshows ")
        if picture.number == 2:
            lines[4] = ""
        path = folder / f"{named(picture)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        path.parent.with_name(f"{path.parent.name}.t7").write_bytes(b"torch")


def _write_pickles(folder: Path, listed: list[Picture], rows: int, embeddings: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "filenames.pickle").write_bytes(pickle.dumps([picture.name for picture in listed], 0))
    (folder / "class_info.pickle").write_bytes(pickle.dumps([picture.group for picture in listed], 0))
    if embeddings:
        (folder / "char-CNN-RNN-embeddings.pickle").write_bytes(python2([embedding(p, rows) for p in listed]))


def embedding(picture: Picture, rows: int) -> np.ndarray:
    """Return float32 [rows, WIDTH], each row beginning with the image's number and the line's."""
    values = np.zeros((rows, WIDTH), np.float32)
    values[:, 0], values[:, 1] = picture.number, np.arange(rows)
    return values


def _lines(path: Path, lines: "list[str] | tuple[str, ...]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
