"""Pickles of plain data, read without `pickle`: text, numbers, lists, dictionaries and NumPy arrays, nothing else.

A pickle is a program. Even with every import refused, the standard library's machine can be crashed by a
megabyte of nested tuples and made to fill the memory by eleven bytes. The machine here knows only the
instructions that plain data needs, looks nothing up, calls nothing, and never makes more than the file is large.
"""

import codecs
import math
import pickletools
import re
import struct
from collections.abc import Callable, Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .user_files import short

MAX_STEPS = 10_000_000
"""Instructions a file may hold; the captions of all birds are about 3 million."""

_BYTE, _SHORT, _INT, _SIZE, _LONG, _DOUBLE = map(struct.Struct, ("<B", "<H", "<i", "<I", "<Q", ">d"))


class Refused(ValueError):
    """What a pickle of plain data does not hold."""


def parse(data: bytes) -> object:
    """Return the value in a pickle of any protocol; raise ValueError where it is broken or more than plain data.

    Lists, dictionaries (of numbers or text), tuples, str, int, float, bool and None come back as such, NumPy's
    numbers as Python's, arrays of numbers as `Array`, and Python 2's strings as bytes or memoryview, since only
    who reads them knows whether they are text (see `text_of`).
    """
    return _Machine(data).run()


def text_of(value: object) -> str:
    """Return text, or Python 2's strings of bytes as Latin-1; raise ValueError at anything else."""
    if isinstance(value, bytes | memoryview):
        return str(value, "latin1")
    if not isinstance(value, str):
        raise Refused(f"{kind_of(value)} where text was expected")
    return value


def kind_of(value: object) -> str:
    """Return what a value is, in words, for messages; never what it holds."""
    words = {dict: "a dictionary", int: "a number", float: "a fraction", type(None): "nothing", str: "text",
             bytes: "text", memoryview: "text", Array: "an array"}  # fmt: skip
    return words.get(type(value), f"a {type(value).__name__.strip('_').lower()}")


class _Global(Enum):
    """The names that pickled arrays mention; each stands for a rule of `_Machine.reduce`, for no object."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    SCALAR = "numpy.core.multiarray scalar"
    FROM_BUFFER = "numpy.core.numeric _frombuffer"
    ARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"
    ENCODE = "_codecs encode"


class _Dtype:
    """A type of numbers, and of nothing else."""

    CODES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8".split())

    def __init__(self, code: object) -> None:
        self.code = text_of(code)
        self.order = "="
        if self.code not in self.CODES:
            raise Refused(f"an array of {short(repr(self.code))}; only numbers are read")

    def build(self, state: tuple[object, ...]) -> None:
        """Take the byte order from NumPy's state of a plain type."""
        match state:
            case (int(), order, None, None, None, -1, -1, 0) if text_of(order) in ("<", ">", "|", "="):
                self.order = text_of(order)
            case _:
                raise Refused("an array of something else than plain numbers")

    def read(self, raw: object, shape: Sequence[object], columns_first: bool = False) -> NDArray[np.generic]:
        """Return a view of `raw` as an array of `shape`, which must take up all of it."""
        dtype: np.dtype[np.generic] = np.dtype(self.order.replace("|", "=") + self.code)
        sides = [side for side in shape if type(side) is int and side > 0]
        if not isinstance(raw, bytes | memoryview) or len(sides) != len(shape) or not 1 <= len(sides) <= 3:
            raise Refused("an array without bytes, or without a shape of 1 to 3 numbers")
        if math.prod(sides) * dtype.itemsize != len(raw):
            raise Refused(f"an array {sides} of {self.code} in {len(raw)} bytes")
        return np.frombuffer(raw, dtype).reshape(sides, order="F" if columns_first else "C")


class Array:
    """An array of numbers: empty when it is announced, filled later."""

    def __init__(self, values: NDArray[np.generic]) -> None:
        self.values = values
        """Read-only, of 1 to 3 dimensions; they may lie in the file's own bytes."""

    def build(self, state: tuple[object, ...]) -> None:
        """Take the values from NumPy's state of an array."""
        match state:
            case (1, tuple() as shape, _Dtype() as dtype, (0 | 1) as columns_first, raw):
                self.values = dtype.read(raw, shape, bool(columns_first))
            case _:
                raise Refused("an array whose state is not NumPy's")


class _Machine:
    """Python's pickle instructions, as far as plain data needs them.

    What is in the memo can be fetched again only if it cannot change: so no list, dictionary or array is in two
    places, nor in itself, and walking through them takes no longer than the file is large.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.view = memoryview(data)
        self.at = 0
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        """The stacks below each mark."""
        self.memo: dict[int, object] = {}
        self.encoded = 0

    def run(self) -> object:
        """Return the value that the instructions make."""
        for _ in range(MAX_STEPS):
            if self.at == len(self.data):
                raise Refused(f"cut off: no end at byte {self.at}")
            code = self.data[self.at]
            self.at += 1
            if code == _STOP:
                return self.result()
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"the instruction {_CODES.get(code, hex(code))}, which plain data never needs")
            action(self)
        raise Refused(f"over {MAX_STEPS:,} instructions")

    def result(self) -> object:
        """Return the one value that is left at the end."""
        if len(self.stack) != 1 or self.below or self.at != len(self.data):
            raise Refused(f"not one value at its end, or {len(self.data) - self.at} bytes behind it")
        return self.stack[0]

    def take(self, length: int) -> memoryview:
        """Return the next bytes of the file."""
        there = len(self.data) - self.at
        if not 0 <= length <= there:
            raise Refused(f"cut off: at byte {self.at}, {length} were announced and {there} are there")
        self.at += length
        return self.view[self.at - length : self.at]

    def line(self) -> bytes:
        """Return the bytes up to the end of the line."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused(f"cut off: no end of the line that begins at byte {self.at}")
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def number(self, layout: struct.Struct) -> int:
        """Return the next number."""
        if len(self.data) - self.at < layout.size:
            raise Refused(f"cut off: no whole number at byte {self.at}")
        value: int = layout.unpack_from(self.data, self.at)[0]
        self.at += layout.size
        return value

    def counted(self, layout: struct.Struct) -> memoryview:
        """Return the bytes that stand behind their number."""
        return self.take(self.number(layout))

    def long(self) -> int:
        """Return a number in as few bytes as it needs, 8 at most."""
        raw = self.counted(_BYTE)
        if len(raw) > 8:
            raise Refused(f"a number of {len(raw)} bytes")
        return int.from_bytes(raw, "little", signed=True)

    def written(self) -> int:
        """Return a number that is written out, of 20 digits at most."""
        text = self.line().removesuffix(b"L")
        if len(text) > 20:
            raise Refused(f"a number of {len(text)} digits")
        return int(text)

    def quoted(self) -> bytes:
        """Return a string of Python 2 that is written out with quotes and escapes."""
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise Refused("a string without quotes")
        # What Python 2 writes; others make the decoder warn.
        if not re.fullmatch(rb"(?:[^\\]|\\(?:[\\'\"nrt]|x[0-9a-fA-F]{2}))*", text[1:-1]):
            raise Refused("a string with unknown escapes")
        return codecs.escape_decode(text[1:-1])[0]

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def last(self) -> object:
        """Return the last value, which stays on the stack."""
        if not self.stack:
            raise Refused("a value is missing")
        return self.stack[-1]

    def pop(self) -> object:
        """Take the last value off the stack."""
        self.last()
        return self.stack.pop()

    def popped(self, length: int) -> list[object]:
        """Take the last values off the stack, in the order in which they came."""
        return [self.pop() for _ in range(length)][::-1]

    def mark(self) -> None:
        """Begin a list, tuple or dictionary."""
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[object]:
        """Take all values since the last mark off the stack, and the mark."""
        if not self.below:
            raise Refused("a beginning is missing")
        values, self.stack = self.stack, self.below.pop()
        return values

    def extend(self, values: list[object]) -> None:
        """Append values to the list that is last on the stack."""
        target = self.last()
        if not isinstance(target, list):
            raise Refused(f"values appended to {kind_of(target)}")
        target.extend(values)

    def update(self, values: list[object]) -> None:
        """Add keys and values, in turn, to the dictionary that is last on the stack."""
        target = self.last()
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused(f"keys and values for {kind_of(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys are not plain data; hashing a deep tuple overflows the interpreter's own stack.
            target[key if type(key) is int else text_of(key)] = value

    def dictionary(self) -> None:
        """Make a dictionary of the keys and values, in turn, since the last mark."""
        values = self.marked()
        self.push({})
        self.update(values)

    def memoize(self, index: int) -> None:
        """Remember the last value."""
        self.memo[index] = self.last()

    def fetch(self, index: int) -> None:
        """Push a remembered value again."""
        if index not in self.memo or isinstance(self.memo[index], list | dict | Array):
            raise Refused("a list, dictionary or array that stands in two places, or is not there")
        self.push(self.memo[index])

    def name(self, module: object, name: object) -> None:
        """Push one of the known names; nothing is imported."""
        full = f"{text_of(module).replace('numpy._core.', 'numpy.core.')} {text_of(name)}"
        known = _NAMES.get(full)
        if known is None:
            raise Refused(f"it asks for {short(repr(full.replace(' ', '.')))}; only numbers, text and arrays are read")
        self.push(known)

    def reduce(self) -> None:
        """Make what a known name and its arguments stand for."""
        name, arguments = self.popped(2)
        match name, arguments:
            case _Global.RECONSTRUCT, (_Global.ARRAY, _, _):
                self.push(Array(np.zeros(0)))
            case _Global.DTYPE, (code, _, _):
                self.push(_Dtype(code))
            case _Global.SCALAR, (_Dtype() as dtype, raw):
                self.push(dtype.read(raw, [1]).tolist()[0])
            case _Global.FROM_BUFFER, (raw, _Dtype() as dtype, tuple() as shape, ("C" | "F") as order):
                self.push(Array(dtype.read(raw, shape, order == "F")))
            case _Global.ENCODE, (str() as text, "latin1"):
                self.push(self.encode(text))
            case _:
                raise Refused("something is called that makes no number, text or array")

    def encode(self, text: str) -> bytes:
        """Return the bytes that Python 3 writes as text for older protocols, all together no more than the file."""
        self.encoded += len(text)
        if self.encoded > len(self.data):
            raise Refused("more bytes than the file holds")
        return text.encode("latin1")

    def build(self) -> None:
        """Fill the array, or finish the type, that is last on the stack."""
        state, target = self.pop(), self.last()
        if not isinstance(target, Array | _Dtype) or not isinstance(state, tuple):
            raise Refused(f"a state for {kind_of(target)}")
        target.build(state)


_BY_NAME: dict[str, Callable[[_Machine], object]] = {
    "PROTO": lambda m: m.take(1),
    "FRAME": lambda m: m.take(8),
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "INT": lambda m: m.push(m.written()),
    "LONG": lambda m: m.push(m.written()),
    "BININT": lambda m: m.push(m.number(_INT)),
    "BININT1": lambda m: m.push(m.number(_BYTE)),
    "BININT2": lambda m: m.push(m.number(_SHORT)),
    "LONG1": lambda m: m.push(m.long()),
    "FLOAT": lambda m: m.push(float(m.line())),
    "BINFLOAT": lambda m: m.push(m.number(_DOUBLE)),
    "STRING": lambda m: m.push(m.quoted()),
    "SHORT_BINSTRING": lambda m: m.push(bytes(m.counted(_BYTE))),
    "BINSTRING": lambda m: m.push(m.counted(_INT)),
    "SHORT_BINBYTES": lambda m: m.push(bytes(m.counted(_BYTE))),
    "BINBYTES": lambda m: m.push(m.counted(_SIZE)),
    "BINBYTES8": lambda m: m.push(m.counted(_LONG)),
    "BYTEARRAY8": lambda m: m.push(m.counted(_LONG)),
    "UNICODE": lambda m: m.push(str(m.line(), "raw-unicode-escape")),
    "SHORT_BINUNICODE": lambda m: m.push(str(m.counted(_BYTE), "utf-8")),
    "BINUNICODE": lambda m: m.push(str(m.counted(_SIZE), "utf-8")),
    "BINUNICODE8": lambda m: m.push(str(m.counted(_LONG), "utf-8")),
    "MARK": lambda m: m.mark(),
    "EMPTY_LIST": lambda m: m.push([]),
    "LIST": lambda m: m.push(m.marked()),
    "APPEND": lambda m: m.extend(m.popped(1)),
    "APPENDS": lambda m: m.extend(m.marked()),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "TUPLE": lambda m: m.push(tuple(m.marked())),
    "TUPLE1": lambda m: m.push(tuple(m.popped(1))),
    "TUPLE2": lambda m: m.push(tuple(m.popped(2))),
    "TUPLE3": lambda m: m.push(tuple(m.popped(3))),
    "EMPTY_DICT": lambda m: m.push({}),
    "DICT": lambda m: m.dictionary(),
    "SETITEM": lambda m: m.update(m.popped(2)),
    "SETITEMS": lambda m: m.update(m.marked()),
    "PUT": lambda m: m.memoize(m.written()),
    "BINPUT": lambda m: m.memoize(m.number(_BYTE)),
    "LONG_BINPUT": lambda m: m.memoize(m.number(_SIZE)),
    "MEMOIZE": lambda m: m.memoize(len(m.memo)),
    "GET": lambda m: m.fetch(m.written()),
    "BINGET": lambda m: m.fetch(m.number(_BYTE)),
    "LONG_BINGET": lambda m: m.fetch(m.number(_SIZE)),
    "GLOBAL": lambda m: m.name(m.line(), m.line()),
    "STACK_GLOBAL": lambda m: m.name(*m.popped(2)),
    "REDUCE": lambda m: m.reduce(),
    "BUILD": lambda m: m.build(),
}
_CODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_ACTIONS = {code: _BY_NAME[name] for code, name in _CODES.items() if name in _BY_NAME}
_STOP = ord(".")
_NAMES = {known.value: known for known in _Global}
