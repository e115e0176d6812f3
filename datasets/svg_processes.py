"""SVG drawn by child processes: on all cores, and what crashes or hangs the renderer is an error and no more."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import astuple
from queue import SimpleQueue
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from . import svg

DEADLINE = 60.0
"""Seconds for one picture; icons take hundredths."""


class Drawers:
    """Child processes that draw, each one picture at a time; as a context they end with it. Threads may share them."""

    def __init__(self, number: int) -> None:
        self._children = [_Child() for _ in range(number)]
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> "Drawers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.end()

    def draw(self, body: str, box: svg.ViewBox, image_size: int, where: str) -> NDArray[np.uint8]:
        """Return what `svg.draw` returns; raise UserError beginning with `where` also if that crashed or hung."""
        child = self._idle.get()
        try:
            return child.draw(body, box, image_size, where)
        finally:
            self._idle.put(child)


class _Child:
    def __init__(self) -> None:
        # Modules come from where this process has them, and not from the folder it happens to run in.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def draw(self, body: str, box: svg.ViewBox, image_size: int, where: str) -> NDArray[np.uint8]:
        assert self._process.stdin and self._process.stdout
        hung = threading.Timer(DEADLINE, self._process.kill)
        hung.start()
        try:
            self._process.stdin.write(json.dumps([body, astuple(box), image_size, where]).encode() + b"\n")
            self._process.stdin.flush()
            error_line = json.loads(self._process.stdout.readline())
            pixels = self._process.stdout.read(0 if error_line else 3 * image_size**2)
            if error_line:
                raise UserError(error_line)
            return np.frombuffer(pixels, np.uint8).reshape(3, image_size, image_size)
        except (OSError, ValueError) as error:
            self._process.kill()
            reason = f"the renderer crashed on it, or took over {DEADLINE:.0f} seconds"
            raise UserError(f"{where}: not an SVG that can be drawn ({reason})") from error
        finally:
            hung.cancel()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Draw what comes on standard input, one JSON list of the arguments of `svg.draw` a line, until it ends.

    Each reply is a line of JSON, what is wrong or null, and after null the pixels' bytes.
    """
    for line in sys.stdin.buffer:
        body, box, image_size, where = json.loads(line)
        pixels = b""
        error = None
        try:
            pixels = svg.draw(body, svg.ViewBox(*box), image_size, where).tobytes()
        except UserError as refused:
            error = str(refused)
        sys.stdout.buffer.write(json.dumps(error).encode() + b"\n" + pixels)
        sys.stdout.buffer.flush()
