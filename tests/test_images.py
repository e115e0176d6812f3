import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from t2ibench.datasets.images import decode
from t2ibench.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def flat(color: object, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, color)  # type: ignore[arg-type]


def colour_of(decoded: NDArray[np.uint8]) -> tuple[int, ...]:
    """The one colour of a decoded image; fails where it has several."""
    assert decoded.dtype == np.uint8 and decoded.shape == (3, 4, 4)
    assert (decoded == decoded[:, :1, :1]).all()
    return tuple(decoded[:, 0, 0].tolist())


def one_line_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        decode(path, 4)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgb.png", flat(RED), RED),
        ("grey.png", flat(100, "L"), (100, 100, 100)),
        ("bits.png", flat(1, "1"), WHITE),
        ("palette.gif", flat(GREEN).convert("P"), GREEN),
        ("rgba.png", flat((255, 0, 0, 0), "RGBA"), WHITE),
        ("half.png", flat((255, 0, 0, 128), "RGBA"), (255, 127, 127)),
        ("la.png", flat((0, 0), "LA"), WHITE),
        ("cmyk.tiff", flat((0, 255, 255, 0), "CMYK"), RED),
        ("cmyk.jpg", flat((0, 0, 0, 0), "CMYK"), WHITE),
        ("grey.jpg", flat(100, "L"), (100, 100, 100)),
        ("rgb.bmp", flat(BLUE), BLUE),
        ("rgb.ppm", flat(BLUE), BLUE),
        ("lossless.webp", flat((0, 0, 255, 0), "RGBA"), WHITE),
        ("float.tiff", flat(0.5, "F"), None),
    ],
)
def test_every_mode_becomes_rgb_on_white(
    tmp_path: Path, name: str, image: Image.Image, expected: tuple[int, ...] | None
) -> None:
    path = saved(image, tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    if expected is None:
        assert "floating-point" in one_line_error(path)
    else:
        assert colour_of(decode(path, 4)) == expected


def test_palette_with_a_transparent_colour_goes_on_white(tmp_path: Path) -> None:
    image = flat(0, "P")
    image.putpalette([*RED, *BLUE])
    path = saved(image, tmp_path / "a.png", transparency=0)
    assert colour_of(decode(path, 4)) == WHITE


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (25700, 100), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, dtype: str, value: int, expected: int) -> None:
    image = Image.fromarray(np.full((8, 8), value, dtype))
    path = saved(image, tmp_path / ("a.png" if dtype == "<u2" else "a.tiff"))
    with Image.open(path) as opened:
        assert opened.mode.startswith("I")
    assert colour_of(decode(path, 4)) == (expected,) * 3


def test_grey_values_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.full((8, 8), 70_000, np.int32)), tmp_path / "a.tiff")
    assert "65535" in one_line_error(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation_counts(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(
        flat(RED), tmp_path / f"a.{suffix}", save_all=True, append_images=[flat(BLUE), flat(GREEN)], **options
    )
    assert colour_of(decode(path, 4)) == RED


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = flat(RED, size=(16, 16))
    image.paste(BLUE, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise: the top comes to the right.
    decoded = decode(saved(image, tmp_path / "a.png", exif=exif), 16)
    assert tuple(decoded[:, 8, 2]) == RED and tuple(decoded[:, 8, 13]) == BLUE


def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path: Path) -> None:
    image = Image.effect_noise((90, 30), 90).convert("RGB")
    expected = image.resize((12, 4), Image.Resampling.BICUBIC).crop((4, 0, 8, 4))
    decoded = decode(saved(image, tmp_path / "wide.png"), 4)
    assert np.abs(decoded.transpose(1, 2, 0).astype(int) - np.asarray(expected)).max() <= 1
    turned = decode(saved(image.transpose(Image.Transpose.TRANSPOSE), tmp_path / "high.png"), 4)
    assert np.abs(turned.transpose(0, 2, 1).astype(int) - decoded).max() <= 1


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    decoded = decode(saved(Image.fromarray(stripes), tmp_path / "a.png"), 8)
    assert np.abs(decoded.astype(int) - 127).max() <= 8


def test_a_strip_does_not_grow_to_gigabytes(tmp_path: Path) -> None:
    assert decode(saved(flat(RED, size=(1, 60_000)), tmp_path / "a.png"), 4).shape == (3, 4, 4)


def test_an_image_of_the_size_asked_for_is_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    decoded = decode(saved(Image.fromarray(pixels), tmp_path / "a.png"), 16)
    assert (decoded == pixels.transpose(2, 0, 1)).all()


def test_a_stream_decodes_as_its_file_does(tmp_path: Path) -> None:
    path = saved(Image.radial_gradient("L"), tmp_path / "a.png")
    assert (decode(BytesIO(path.read_bytes()), 4) == decode(path, 4)).all()


def bomb(width: int, height: int) -> bytes:
    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = part(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + data + part(b"IEND", b"")


def half_of(suffix: str) -> Callable[[], bytes]:
    def make() -> bytes:
        stream = BytesIO()
        Image.effect_noise((64, 64), 90).save(stream, suffix)
        return stream.getvalue()[: len(stream.getvalue()) // 2]

    return make


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b"", "empty (0 bytes)"),
        (half_of("png"), "broken or unreadable"),
        (half_of("jpeg"), "broken or unreadable"),
        (lambda: b"<html>not found</html>", "not an image of a known format"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (lambda: bomb(12_000, 12_000), "too many pixels"),
        (lambda: bomb(60_000, 60_000), "too many pixels"),
        (lambda: bomb(0, 8), "a.png"),
        (lambda: b"P6 0 0 255\n", "a.png"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, content: Callable[[], bytes], said: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert said in one_line_error(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    assert "no such file" in one_line_error(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    assert "not a file" in one_line_error(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_nothing_but_user_errors(suffix: str, data: st.DataObject) -> None:
    stream = BytesIO()
    Image.linear_gradient("L").resize((24, 24)).save(stream, suffix)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        assert decode(BytesIO(content), 8).shape == (3, 8, 8)
    except UserError as error:
        assert "\n" not in str(error)
