"""What the known names of a pickle stand for: numpy arrays and pandas tables, decoded without their unpicklers.

See `plain_pickle`, which reads the files. Nothing here imports, calls or names what a pickle asks for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_TEXT = 4096
"""Characters or bytes of an element of an array of texts."""
DTYPE = re.compile(r"[?]|b1|[iu][1248]|f[248]|O8?|[US]\d{1,5}")
KEYS = (str, int, float, bool, bytes, type(None))
"""Types of keys; others may be nested deeply enough to break the interpreter when hashed."""


class Refused(ValueError):
    """What a pickle must not ask for; the message names it."""


class Array:
    """A numpy array, `np.asarray` of which gives its values; a pickle tells them after it made the array."""

    values: np.ndarray | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values.

        Raises:
            ValueError: they never came.
        """
        if self.values is None:
            raise Refused("an array without values")
        return self.values if dtype is None else self.values.astype(dtype)

    def restore(self, state: Any) -> None:
        """Take the values from numpy's state of an array."""
        if self.values is not None or not isinstance(state, tuple) or len(state) != 5:
            raise Refused("another state of an array")
        _, shape, dtype, fortran, content = state
        self.values = _shaped(shape, _dtype(dtype), "F" if fortran else "C", content)


class Table:
    """A pandas table without its index: `columns` by name, `[n]` each."""

    columns: dict[str, np.ndarray]

    def restore(self, state: Any) -> None:
        """Take the columns from pandas' state of a table."""
        if hasattr(self, "columns") or not isinstance(state, dict):
            raise Refused("another state of a table")
        self.columns = _columns(state.get("_mgr", state.get("_data")))


@dataclass(eq=False)
class Part:
    """A piece of an array or table that is no value by itself."""

    kind: str
    args: tuple[Any, ...]
    state: tuple[Any, ...] = ()

    def restore(self, state: Any) -> None:
        """Keep a state."""
        if self.state or not isinstance(state, tuple):
            raise Refused(f"another state of a {self.kind}")
        self.state = state


def check_keys(keys: list[Any]) -> None:
    """Refuse keys of a dictionary, or members of a set, that are not of `KEYS`."""
    for key in keys:
        if type(key) not in KEYS:
            raise Refused(f"a key that is a {type(key).__name__}")


def _dtype(part: Any) -> np.dtype:
    """The type of elements that a part describes."""
    if not isinstance(part, Part) or part.kind != "dtype":
        raise Refused(f"an element type that is a {type(part).__name__}")
    code, state = part.args[0], part.state or (3, "=", None, None, None)
    if not isinstance(code, str) or not DTYPE.fullmatch(code) or state[1] not in tuple("<>=|") or any(state[2:5]):
        raise Refused(f"numpy element type {code[:20] if isinstance(code, str) else type(code).__name__}")
    if code[0] in "US" and int(code[1:]) > MAX_TEXT:
        raise Refused(f"numpy element type {code!r}: texts of more than {MAX_TEXT}")
    return np.dtype(state[1] + code)


def _shaped(shape: Any, dtype: np.dtype, order: str, content: Any) -> np.ndarray:
    """The array of a shape; objects come as a list of plain values, never as bytes, which would be addresses."""
    if not isinstance(shape, tuple) or len(shape) > 2 or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise Refused("an array that is not of one or two dimensions")
    objects = dtype.hasobject
    if not isinstance(content, list if objects else bytes | bytearray):
        raise Refused(f"an array of {dtype} from a {type(content).__name__}")
    if len(content) != math.prod(shape) * (1 if objects else dtype.itemsize):
        raise Refused(f"an array of {math.prod(shape)} {dtype} from {len(content)} bytes or objects")
    flat = np.fromiter(content, object, len(content)) if objects else np.frombuffer(bytes(content), dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.values = _shaped(shape, _dtype(dtype), order, buffer)
    return array


def _scalar(dtype: Any, content: Any) -> Any:
    if (kind := _dtype(dtype)).hasobject:
        raise Refused("a numpy object scalar")
    return _shaped((1,), kind, "C", content)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused("bytes of another encoding than latin1")
    return text.encode("latin1")


def _empty(*args: Any) -> bytes:
    if args:
        raise Refused("bytes of something")
    return b""


def _set(members: Any = ()) -> set[Any]:
    if not isinstance(members, list | tuple):
        raise Refused(f"a set of a {type(members).__name__}")
    check_keys(list(members))
    return set(members)


def _values(array: Any) -> np.ndarray:
    """The values of an `Array`; anything else, nested lists say, numpy would take apart."""
    if not isinstance(array, Array):
        raise Refused(f"a table with a {type(array).__name__} in place of an array")
    return np.asarray(array)


def _slice(*bounds: Any) -> slice:
    if not 1 <= len(bounds) <= 3 or not all(b is None or type(b) is int for b in bounds):
        raise Refused("a slice of other things than whole numbers")
    return slice(*bounds)


def _columns(manager: Any) -> dict[str, np.ndarray]:
    """The columns of a table's block manager, as pandas 1.3 and later write it, or as earlier ones do."""
    if not isinstance(manager, Part) or manager.kind != "BlockManager":
        raise Refused("a table of another layout")
    if manager.args:
        blocks = [(block.args[0], block.args[1]) for block in manager.args[0]]
        axes = manager.args[1]
    else:
        latest = manager.state[3]["0.14.1"]
        blocks, axes = [(block["values"], block["mgr_locs"]) for block in latest["blocks"]], latest["axes"]
    names = _values(axes[0].args[1]["data"]).tolist()
    if not all(type(name) in (str, int) for name in names):
        raise Refused("a table whose columns have no names")
    columns: dict[str, np.ndarray] = {}
    for values, places in blocks:
        values = _values(values)
        taken = range(len(names))[places] if isinstance(places, slice) else _values(places).tolist()
        if values.ndim != 2 or len(taken) != len(values):
            raise Refused("a table whose blocks do not fit")
        columns |= {str(names[place]): column for place, column in zip(taken, values, strict=True)}
    if len(columns) != len(names) or len({len(c) for c in columns.values()}) > 1:
        raise Refused("a table whose columns do not fit")
    return {str(name): columns[str(name)] for name in names}


def _parts(kind: str) -> Callable[..., Part]:
    return lambda *args: Part(kind, args)


INDEXES = ("pandas.core.indexes.range RangeIndex", "pandas.core.indexes.numeric Int64Index", "pandas RangeIndex")
GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy dtype": _parts("dtype"),
    "numpy ndarray": _parts("class"),
    "_codecs encode": _encode,
    **{f"{module} slice": _slice for module in ("builtins", "__builtin__")},
    **{f"{module} bytes": _empty for module in ("builtins", "__builtin__")},
    **{f"{module} set": _set for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray _reconstruct": lambda *_: Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _from_buffer for core in ("core", "_core")},
    **{f"{module} DataFrame": lambda *_: Table() for module in ("pandas.core.frame", "pandas")},
    "pandas.core.internals.managers BlockManager": _parts("BlockManager"),
    "pandas._libs.internals _unpickle_block": _parts("block"),
    "pandas.core.indexes.base _new_Index": _parts("index"),
    **{name: _parts("class") for name in ("pandas.core.indexes.base Index", "pandas Index", *INDEXES)},
}
"""By 'module name', what stands for each known name; those of several versions of numpy and pandas."""
