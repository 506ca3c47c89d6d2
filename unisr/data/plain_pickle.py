"""The one place that reads pickles: files that authors published in no other form, as plain values, running nothing.

A pickle is a program. Here it may only put together numbers, texts, bytes, lists, tuples, sets, dictionaries, numpy
arrays and pandas tables: `OPCODES` are the instructions that are obeyed and `GLOBALS` the names that are known. No
name is ever imported: each stands for a function of `plain_arrays`, which decodes arrays and tables without numpy's or
pandas' own unpicklers. Everything else is refused with its name.

The pure Python interpreter of the standard library is used because its instructions can be taken away one by one;
the C one obeys all of them, looks registered extension codes up by itself, and lets a file of ten bytes ask for any
amount of memory.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisr.data.plain_arrays import GLOBALS, Array, Part, Refused, Table, check_keys
from unisr.errors import DataError

MAX_BYTES = 4 << 30
"""Of a file; what comes of it takes memory in proportion."""


@dataclass(frozen=True)
class _Name:
    """A name that a pickle may call; `make` stands for it."""

    name: str
    make: Callable[..., Any]


def load_plain(path: Path) -> Any:
    """The value of a pickle: plain Python, `Array` and `Table`; nothing of it is run.

    Raises:
        DataError: the file is larger than `MAX_BYTES`, damaged, or asks for anything else; the message names it.
    """
    try:
        with path.open("rb") as file:
            if not 0 < path.stat().st_size <= MAX_BYTES:
                raise Refused(f"{path.stat().st_size} bytes; 1 to {MAX_BYTES} are read")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                value = _Reader(content).load()
        if isinstance(value, Part | _Name):
            raise Refused("it is no value")
        return value
    except Refused as reason:
        advice = "only plain values, arrays and tables are read; where it was made, save it as parquet"
        raise DataError(f"{path}: refused: {reason}; {advice}") from None
    # A damaged or hostile program can fail in any way, such as an empty stack or too little memory.
    except Exception as reason:
        why = f"{type(reason).__name__} {str(reason)[:80]}"
        raise DataError(f"{path}: no readable pickle: {why}; get it again") from None


class _Reader(pickle._Unpickler):
    """The standard interpreter with `OPCODES` only."""

    def find_class(self, module: str, name: str) -> _Name:
        known = f"{module} {name}"
        if known not in GLOBALS:
            raise Refused(f"global {module[:80]}.{name[:80]}")
        return _Name(known, GLOBALS[known])

    def load_call(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or not isinstance(args, tuple):
            raise Refused(f"a call of a {type(called).__name__}")
        self.append(called.make(*args))

    def load_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Array | Table | Part):
            raise Refused(f"a state of a {type(target).__name__}")
        target.restore(state)

    def load_entries(self) -> None:
        entries = self.pop_mark()
        self._enter(self.stack[-1], entries[::2], entries[1::2])

    def load_entry(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._enter(self.stack[-1], [key], [value])

    def _enter(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        check_keys(keys)
        if type(target) is not dict:
            raise Refused(f"entries of a {type(target).__name__}")
        target.update(zip(keys, values, strict=True))

    def load_members(self) -> None:
        members = self.pop_mark()
        check_keys(members)
        if type(self.stack[-1]) is not set:
            raise Refused(f"members of a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(members)

    def load_bytearray(self) -> None:
        # The standard one sets memory aside before it looks whether the file is as long.
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))


class _Opcodes(dict[int, Callable[[Any], None]]):
    """Handlers by opcode."""

    def __missing__(self, code: int) -> Callable[[Any], None]:
        known = {value[0]: name for name, value in vars(pickle).items() if name.isupper() and type(value) is bytes}
        raise Refused(f"opcode {known.get(code, hex(code))}")


PLAIN = (
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_LIST APPEND APPENDS LIST "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT EMPTY_SET BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET "
    "GLOBAL STACK_GLOBAL"
).split()
OWN = {
    "REDUCE": _Reader.load_call, "NEWOBJ": _Reader.load_call, "BUILD": _Reader.load_state,
    "SETITEMS": _Reader.load_entries, "SETITEM": _Reader.load_entry, "ADDITEMS": _Reader.load_members,
    "BYTEARRAY8": _Reader.load_bytearray,
}  # fmt: skip
OPCODES = _Opcodes({getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in PLAIN})
OPCODES |= {getattr(pickle, name)[0]: handler for name, handler in OWN.items()}
_Reader.dispatch = OPCODES
