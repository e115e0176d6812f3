"""One SVG picture, checked and then drawn: it can show nothing but itself."""

import re
from dataclasses import dataclass
from io import BytesIO
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from . import images
from .user_files import short

VERSION = 1
"""Raised when the same SVG is drawn with other pixels than before."""

MAX_LENGTH = 2_000_000
MAX_SIDE = 10_000

ELEMENTS = frozenset(
    "svg g path circle ellipse rect line polyline polygon defs use symbol clipPath mask "
    "linearGradient radialGradient stop filter feBlend feColorMatrix feFlood feGaussianBlur feOffset".split()
)
"""What flat pictures are made of. Images, text, styles and scripts are not."""

_REFERENCE = re.compile(r"url\(\s*[\"']?\s*([^\"')\s]*)", re.IGNORECASE)


@dataclass(frozen=True)
class ViewBox:
    """The part of the plane that a picture shows."""

    left: float
    top: float
    width: float
    height: float


def draw(body: str, box: ViewBox, image_size: int, where: str) -> NDArray[np.uint8]:
    """Return an SVG body on white, the whole `box` centred: uint8 [3, image_size, image_size], RGB.

    Raises UserError beginning with `where` on what is no SVG of `ELEMENTS`, or too large, or refers to anything
    but its own ids. What the renderer does with the rest is up to it: nested by hundreds, or with coordinates of
    hundreds of thousands, it crashes. `svg_processes` draws what may be hostile.
    """
    import resvg_py

    sides, corner = (box.width, box.height), (box.left, box.top)
    if not all(1 <= side <= MAX_SIDE for side in sides) or not all(abs(value) <= MAX_SIDE for value in corner):
        raise UserError(f"{where}: expected a picture of 1 to {MAX_SIDE:,} units, got {short(str(box), 200)}")
    svg = _framed(body, box)
    try:
        _check(svg)
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=image_size, height=image_size, dpi=96, skip_system_fonts=True
        )
    except (ValueError, expat.ExpatError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not an SVG that can be drawn ({reason})") from error
    return images.decode(BytesIO(png), image_size)


def _framed(body: str, box: ViewBox) -> str:
    """Return the document: the box, in the middle of a square of its longer side where it is no square."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    view = f'width="{box.width}" height="{box.height}" viewBox="{box.left} {box.top} {box.width} {box.height}"'
    if box.width == box.height:
        return f"<svg {names} {view}>{body}</svg>"
    side = max(box.width, box.height)
    # What lies beside the box is cut off by an inner <svg>, and would show in an outer one.
    inner = f'<svg x="{(side - box.width) / 2}" y="{(side - box.height) / 2}" {view}>{body}</svg>'
    return f'<svg {names} width="{side}" height="{side}" viewBox="0 0 {side} {side}">{inner}</svg>'


def _check(svg: str) -> None:
    """Raise ValueError or ExpatError on what is no XML, on other elements and on references out of the document."""
    if len(svg) > MAX_LENGTH:
        raise ValueError(f"{len(svg):,} characters; at most {MAX_LENGTH:,}")

    def start(name: str, attributes: dict[str, str]) -> None:
        if name not in ELEMENTS:
            raise ValueError(f"the element <{short(name)}> is none of those that are drawn")
        targets = [value for key, value in attributes.items() if key.split(":")[-1] == "href"]
        for value in attributes.values():
            targets.extend(_REFERENCE.findall(value))
        for target in targets:
            if not target.startswith("#"):
                raise ValueError(f"it refers to {short(repr(target))}; only its own ids, as #id, may be referred to")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.Parse(svg, True)
