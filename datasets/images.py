"""One image file of any kind, decoded safely into an RGB square."""

import os
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import UserError

VERSION = 1
"""Raised when the same file decodes to other pixels than before; part of the fingerprint of sources."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .ppm .pgm .pbm".split())

MAX_PIXELS = 64 << 20
LARGE_PIXELS = 16 << 20
"""Images with more are decoded one at a time, so that some of them together do not fill the memory."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, right and bottom outside."""

# warnings.catch_warnings changes the process's filters, so only one thread at a time may be inside.
_opening = threading.Lock()
_large = threading.Lock()


def decode(file: Path | BinaryIO, image_size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Return the centred square of an image file, or of the `box` in it: uint8 [3, image_size, image_size], RGB.

    Any mode is taken (grey of 1, 8 and 16 bits, palette, CMYK), transparent parts go on white, EXIF
    orientation is applied, and of an animation the first frame counts. Raises UserError naming the file
    when it is empty, truncated, no image of the known `FORMATS`, of more than `MAX_PIXELS`, or when nothing
    of it lies in the box; a box that reaches over the edges is clipped.
    """
    name = str(file if isinstance(file, Path) else getattr(file, "name", "image"))
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"{name}: {'is not a file' if file.exists() else 'no such file'}")
    try:
        with _open(file) as image, _large if _pixels(image) > LARGE_PIXELS else nullcontext():
            image.load()
            return to_square(image, image_size, box)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too many pixels for an image ({error}); make it smaller") from error
    # Decoders of broken files raise nearly anything: OSError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise UserError(f"{name}: {_reason(file, error)}") from error


def grid(images: NDArray[np.uint8], columns: int = 8) -> Image.Image:
    """Return images uint8 [N, 3, H, W] as one picture, `columns` a row, with a white line between."""
    padded = np.pad(images, ((0, -len(images) % columns), (0, 0), (1, 1), (1, 1)), constant_values=255)
    _, channels, height, width = padded.shape
    rows = padded.reshape(-1, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(rows.reshape(-1, columns * width, channels))


def size_of(file: Path) -> tuple[int, int]:
    """Return an image file's width and height as `decode` sees it, undecoded; raise UserError as that does."""
    try:
        with _open(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            return (image.height, image.width) if turned else image.size
    except Exception as error:
        raise UserError(f"{file}: {_reason(file, error)}") from error


def to_square(image: Image.Image, image_size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """Return the centre square of an opened image (or its `box`), resized smoothly: uint8 [3, size, size]."""
    rgb = _rgb(ImageOps.exif_transpose(image))
    left, top, right, bottom = box or (0, 0, *rgb.size)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, rgb.width), min(bottom, rgb.height)
    side = min(right - left, bottom - top)
    if side < 1:
        raise ValueError(f"the box {box} lies outside its {rgb.width} x {rgb.height} pixels")
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    # Cropping by `box` instead of after resizing keeps a 1 x 100,000 strip from growing to gigabytes.
    square_box = (left, top, left + side, top + side)
    square = rgb.resize((image_size, image_size), Image.Resampling.BICUBIC, box=square_box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(file: Path | BinaryIO) -> Image.Image:
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=FORMATS)
        except Image.DecompressionBombWarning as error:
            raise Image.DecompressionBombError(str(error)) from error


def _pixels(image: Image.Image) -> int:
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,}, at most {MAX_PIXELS:,} in all")
    return pixels


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image as 8-bit grey; Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its grey values leave 0 to 65535; save it with 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(file: Path | BinaryIO, error: Exception) -> str:
    if isinstance(file, Path) and not file.is_file():
        return "is not a file" if file.exists() else "no such file"
    if (file.stat().st_size if isinstance(file, Path) else file.seek(0, os.SEEK_END)) == 0:
        return "the file is empty (0 bytes); an image was expected"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"broken or unreadable image ({text})"
