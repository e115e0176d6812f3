"""Near-duplicates: found again after a change of encoding, size, light or edges; other pictures are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from t2ibench.datasets import near_duplicates as nd
from t2ibench.datasets.images import to_square
from t2ibench.datasets.near_duplicates import candidates, fingerprints, near_duplicates, plausible, same_picture

SIDE = 64
Images = NDArray[np.uint8]
Change = Callable[[Image.Image], Image.Image]


def photograph(seed: int) -> Image.Image:
    """Return smooth fields of colour with finer ones over them, 200 px."""
    rng = np.random.default_rng(seed)
    large, fine = (
        np.asarray(Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((200, 200), 3), np.float32)
        for cells in (6, 40)
    )
    return Image.fromarray((0.75 * large + 0.25 * fine).astype(np.uint8))


def drawing(seed: int) -> Image.Image:
    """Return a few outlined ellipses and boxes on white, 200 px."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    for number in range(6):
        left, top, width, height = rng.integers((10, 10, 30, 30), (110, 110, 90, 90)).tolist()
        shape = draw.ellipse if number % 2 else draw.rectangle
        fill = tuple(rng.integers(0, 256, 3).tolist())
        shape((left, top, left + width, top + height), fill=fill, outline="black", width=4)
    return image


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def brighter(factor: float) -> Change:
    return lambda image: image.point(lambda value: round(value * factor))


def cropped(left: float, top: float, side: float) -> Change:
    """Return a change that keeps a square of `side`, all in parts of the whole."""
    return lambda image: image.resize(
        image.size, Image.Resampling.BICUBIC,
        box=tuple(image.width * edge for edge in (left, top, left + side, top + side)),
    )  # fmt: skip


def stored(*images: Image.Image) -> Images:
    return np.stack([to_square(image, SIDE) for image in images])


ORIGINALS = [make(seed) for make in (photograph, drawing) for seed in range(12)]
HARMLESS: dict[str, Change] = {
    "JPEG of quality 50": jpeg,
    "by way of 48 px": lambda image: image.resize((48, 48), Image.Resampling.BICUBIC),
    "from 90 px": lambda image: image.resize((90, 90), Image.Resampling.BILINEAR),
    "5 % brighter": brighter(1.05),
    "5 % darker": brighter(0.95),
    "2 % less all around": cropped(0.01, 0.01, 0.98),
    "2 % less at the left and top": cropped(0.02, 0.02, 0.98),
    "2 % less at the right and bottom": cropped(0, 0, 0.98),
    "grey and back": lambda image: jpeg(image.resize((80, 80))),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_the_same_picture_is_found_again(change: Change) -> None:
    first, second = stored(*ORIGINALS), stored(*map(change, ORIGINALS))
    assert same_picture(first, second).all() and same_picture(second, first).all()
    assert plausible(fingerprints(first), fingerprints(second)).all()


def test_a_jpeg_of_the_stored_pixels_is_found_again() -> None:
    first = stored(*ORIGINALS)
    second = stored(*(jpeg(Image.fromarray(image.transpose(1, 2, 0))) for image in first))
    assert same_picture(first, second).mean() > 0.9


OTHER: dict[str, Change] = {
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.rotate(10, fillcolor="white"),
    "15 % darker": brighter(0.85),
    "a tenth less at the left and top": cropped(0.1, 0.1, 0.9),
    "other colours": lambda image: Image.merge("RGB", image.split()[::-1]),
    "without colour": lambda image: image.convert("L").convert("RGB"),
    "blurred beyond recognition": lambda image: image.resize((5, 5)),
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER.keys())
def test_another_picture_is_none(change: Change) -> None:
    assert not same_picture(stored(*ORIGINALS), stored(*map(change, ORIGINALS))).any()


def face(mouth: tuple[int, int], skin: str = "#f7dece", hair: str = "#662113") -> Image.Image:
    """Return an emoji's face; the mouth is an arc between two angles."""
    image = Image.new("RGB", (200, 200), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 10, 180, 190), fill=hair, outline="black", width=4)
    draw.ellipse((45, 50, 155, 180), fill=skin, outline="black", width=4)
    for left in (70, 115):
        draw.ellipse((left, 90, left + 15, 110), fill="black")
    draw.arc((75, 120 + 20 * (mouth[0] > 90), 125, 160 + 20 * (mouth[0] > 90)), *mouth, fill="black", width=9)
    return image


def test_what_differs_in_a_detail_is_another_picture() -> None:
    """Emoji differ by a mouth, a shade of skin: little in all, much at one place."""
    smiling, frowning, darker = face((20, 160)), face((200, 340)), face((20, 160), skin="#d2a077")
    assert same_picture(stored(smiling), stored(jpeg(smiling))).all()
    assert not same_picture(stored(smiling, smiling, frowning), stored(frowning, darker, darker)).any()


def test_the_clock_tells_another_hour() -> None:
    def clock(hand: tuple[int, int]) -> Image.Image:
        image = Image.new("RGB", (200, 200), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((10, 10, 190, 190), fill="#e1e8ed", outline="#8899a6", width=14)
        draw.line((100, 100, *hand), fill="black", width=12)
        return image

    hours = [clock(hand) for hand in ((150, 100), (50, 100), (143, 75), (57, 75), (100, 150))]
    pairs = [(a, b) for a in range(5) for b in range(a)]
    assert not same_picture(stored(*(hours[a] for a, _ in pairs)), stored(*(hours[b] for _, b in pairs))).any()


def flag(emblem: tuple[int, int, int] = (40, 70, 200)) -> Image.Image:
    """Return a blue field under a white one, with a small emblem on the blue."""
    image = Image.new("RGB", (192, 192), (250, 250, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 80, 191, 191), fill=(40, 70, 200))
    draw.rectangle((97, 133, 100, 136), fill=emblem)
    return image


def test_an_emblem_makes_another_flag_if_it_can_be_seen() -> None:
    plain, seen, unseen = flag(), flag((150, 180, 255)), flag((52, 82, 212))
    assert not same_picture(stored(plain), stored(seen)).any()
    assert same_picture(stored(plain), stored(unseen)).all()


def test_white_stays_white_in_what_is_made_brighter() -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).rectangle((17, 17, 116, 183), fill=(150, 180, 160))
    first, second = stored(image), stored(brighter(1.05)(image))
    assert same_picture(first, second).all() and same_picture(second, first).all()


def test_colour_alone_makes_another_picture() -> None:
    """Purple and green of equal brightness."""
    pictures = []
    for colour in ((220, 60, 200), (40, 180, 55)):
        image = Image.new("RGB", (200, 200), (120, 120, 120))
        ImageDraw.Draw(image).ellipse((60, 60, 140, 140), fill=colour)
        pictures.append(stored(image))
    assert abs(float(fingerprints(pictures[0])[:, 0].mean() - fingerprints(pictures[1])[:, 0].mean())) < 1
    assert not same_picture(*pictures).any()


def test_pale_pictures_differ_as_much_as_strong_ones() -> None:
    pale = [image.point(lambda value: 125 + value // 25) for image in ORIGINALS[:12]]
    assert not same_picture(stored(*pale[:6]), stored(*pale[6:])).any()


def test_what_is_implausible_need_not_be_looked_at() -> None:
    prints = fingerprints(stored(*ORIGINALS))
    grain = fingerprints(np.random.default_rng(0).integers(0, 256, (24, 3, SIDE, SIDE), np.uint8))
    assert not plausible(prints, np.roll(prints, 1, axis=0)).any()
    assert not plausible(grain, np.roll(grain, 1, axis=0)).any()


def test_flat_images_say_nothing() -> None:
    levels = np.repeat(np.arange(100, 110, dtype=np.uint8), 3 * 32 * 32).reshape(-1, 3, 32, 32)
    faint = levels.copy()
    faint[:, :, 8:16, 8:16] += 6
    images = np.concatenate([levels, faint])
    assert near_duplicates(fingerprints(images), lambda numbers: images[numbers]).shape == (0, 2)


@given(
    seed=st.integers(0, 10**6), gain=st.floats(0.95, 1.05), side=st.floats(0.98, 1), left=st.floats(0, 1),
    top=st.floats(0, 1), size=st.integers(60, 200),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_all_at_once(seed: int, gain: float, side: float, left: float, top: float, size: int) -> None:
    original = photograph(seed)
    changed = cropped(left * (1 - side), top * (1 - side), side)(brighter(gain)(original))
    changed = jpeg(changed.resize((size, size), Image.Resampling.BICUBIC))
    assert same_picture(stored(original), stored(changed)).all()


def test_planted_pairs_are_found_and_nothing_else() -> None:
    decoys = [photograph(100 + n) for n in range(60)] + [drawing(100 + n) for n in range(60)]
    images = stored(*decoys, jpeg(decoys[3]), cropped(0.02, 0, 0.98)(decoys[70]), brighter(0.95)(decoys[119]))
    asked: list[int] = []

    def some(numbers: NDArray[np.int64]) -> Images:
        asked.extend(numbers.tolist())
        return images[numbers]

    found = near_duplicates(fingerprints(images), some)
    assert found.tolist() == [[3, 120], [70, 121], [119, 122]]
    assert len(asked) < 40, "only what is plausible is looked at"


def distances(prints: NDArray[np.float16]) -> NDArray[np.float64]:
    """Return the distances of all fingerprints at half their resolution, written out."""
    values = prints.astype(np.float64)
    points = [
        np.concatenate([[image[0, i : i + 2, j : j + 2].mean() / 6 for i in range(0, 12, 2) for j in range(0, 12, 2)],
                        [image[c, i : i + 4, j : j + 4].mean() / 3
                         for c in (1, 2) for i in range(0, 12, 4) for j in range(0, 12, 4)]])
        for image in values
    ]  # fmt: skip
    return np.linalg.norm(np.array(points)[:, None] - np.array(points)[None], axis=2)


@pytest.mark.parametrize("leaf", [16, 1000])
def test_candidates_are_all_near_fingerprints(leaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nd, "LEAF", leaf)
    monkeypatch.setattr(nd, "NEAREST", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(100, 40, (20, 3, 12, 12))
    prints = (centres[rng.integers(0, 20, 300)] + rng.normal(0, 8, (300, 3, 12, 12))
              + rng.normal(0, 6, (300, 3, 1, 1))).astype(np.float16)  # fmt: skip
    apart = distances(prints)
    clear = np.abs(apart - nd.RADIUS) > 1e-2
    expected = {(a, b) for a in range(300) for b in range(a + 1, 300) if apart[a, b] < nd.RADIUS}
    found = set(map(tuple, candidates(prints).tolist()))
    assert len(expected) > 500 and all(a < b for a, b in found)
    assert {pair for pair in found ^ expected if clear[pair]} == set()


def test_where_all_are_alike_the_nearest_are_compared() -> None:
    rng = np.random.default_rng(0)
    prints = (50 + rng.normal(0, 2, (3000, 3, 12, 12))).astype(np.float16)
    prints[7] = prints[2800]
    found = candidates(prints)
    assert len(found) <= 16 * 3000 and [7, 2800] in found.tolist()


def test_one_image_or_none_has_no_pairs() -> None:
    for number in (0, 1):
        images = stored(photograph(0))[:number]
        assert near_duplicates(fingerprints(images), lambda numbers: images[numbers]).shape == (0, 2)  # noqa: B023
