"""Reading published pickles: plain values and tables come back whole, and nothing that a pickle asks for is run."""

from __future__ import annotations

import ast
import codecs
import copyreg
import functools
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unisr
from unisr.data import plain_pickle, plain_tables
from unisr.data.plain_arrays import Table
from unisr.data.plain_pickle import load_plain
from unisr.data.plain_tables import plain_table
from unisr.errors import DataError

KEYS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    KEYS | st.binary().map(bytearray) | st.sets(KEYS),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
FRAME = pd.DataFrame({"user_id": [1, 2, 5], "score": [0.5, 1, 2], "neg_items": [[1, 2], [3], []], "item_id": [3, 4, 1]})
# As pandas 1 and 2 write names of columns.
FRAME.columns = pd.Index(list(FRAME.columns), dtype=object)
OTHER_FRAMES = [FRAME[FRAME["user_id"] > 1], FRAME[["score", "item_id"]], FRAME.iloc[:0], FRAME[["neg_items"]]]


def written(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "a.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_values_are_read_back(tmp_path: Path, value: Any, protocol: int) -> None:
    if protocol < 5 and "bytearray" in repr(value):
        protocol = 5
    assert load_plain(written(tmp_path, [value], protocol)) == [value]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_scalars_are_read_back(tmp_path: Path, protocol: int) -> None:
    grid = np.arange(12).reshape(3, 4)
    arrays = [grid, grid.T, grid[:, ::2], grid.astype(">i4"), np.array([0.5]), np.zeros((0, 3)), np.array(["a", "bc"]),
              np.array([True]), np.array([b"x"]), np.array([None, [1]], dtype=object)]  # fmt: skip
    for array in arrays:
        found = np.asarray(load_plain(written(tmp_path, array, protocol)))
        assert found.dtype == array.dtype and found.shape == array.shape and found.tolist() == array.tolist()
    twice = load_plain(written(tmp_path, [arrays[0], arrays[0], np.int64(7), np.float32(0.5)], protocol))
    assert twice[0] is twice[1] and twice[2:] == [7, 0.5] and type(twice[2]) is int


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tables_are_read_back(tmp_path: Path, protocol: int) -> None:
    for frame in (FRAME, *OTHER_FRAMES):
        table = load_plain(written(tmp_path, frame, protocol))
        assert isinstance(table, Table)
        assert {name: column.tolist() for name, column in table.columns.items()} == frame.to_dict("list")


class Manager:
    """In place of pandas' block manager of before 1.3, which a pickle makes empty and gives a state."""

    def __getstate__(self) -> Any:
        lists = np.empty((1, 2), dtype=object)
        lists[0, 0], lists[0, 1] = [1], [2, 3]
        blocks = [{"values": np.array([[7, 8]]), "mgr_locs": slice(1, 2, 1)},
                  {"values": lists, "mgr_locs": np.array([0])}]  # fmt: skip
        axes = [pd.Index(["a", "b"], dtype=object), pd.RangeIndex(2)]
        return axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}}


def test_the_layout_of_older_tables_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd.DataFrame, "__getstate__", lambda self: {"_data": Manager(), "_typ": "dataframe"})
    own = f"{Manager.__module__}\nManager".encode()
    content = pickle.dumps(pd.DataFrame(), 2)
    assert own in content
    table = load_plain(written(tmp_path, content.replace(own, b"pandas.core.internals.managers\nBlockManager")))
    assert {name: column.tolist() for name, column in table.columns.items()} == {"a": [[1], [2, 3]], "b": [7, 8]}


class Asks:
    """Pickled as the call of a name, and a state for what it gives."""

    def __init__(self, called: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (called, args) if state is None else (called, args, state)

    def __reduce__(self) -> Any:
        return self.reduced


MADE = "made.txt"
CODE = f"open({MADE!r}, 'w').close()"


def array_of(shape: Any, kind: str, content: Any) -> Asks:
    """Pickled as an array of the shape; of none when that is None."""
    state = shape and (1, shape, np.dtype(kind), False, content)
    return Asks(np.array([0]).__reduce__()[0], np.ndarray, (0,), b"b", state=state)


HOSTILE: dict[str, tuple[Any, str]] = {
    "os.system": (Asks(os.system, f"touch {MADE}"), r"global (posix|nt)\.system"),
    "eval": (Asks(eval, CODE), r"global builtins\.eval"),
    "exec inside a list": ([1, {"a": Asks(exec, CODE)}], r"global builtins\.exec"),
    "a chain of calls": (Asks(getattr, Asks(__import__, "os"), "system"), r"global builtins\.getattr"),
    "subprocess": (Asks(subprocess.Popen, ["touch", MADE]), r"global subprocess\.Popen"),
    "unpickling inside": (Asks(pickle.loads, pickle.dumps(Asks(eval, CODE))), r"global _pickle\.loads"),
    "a partial": (functools.partial(eval, CODE), r"global functools\.partial"),
    "numpy's files": (Asks(np.save, MADE, [1]), r"global numpy\.save"),
    "pandas' queries": (Asks(pd.eval, CODE), r"global pandas\.eval"),
    "a nested name": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", r"global numpy\.ndarray\.tofile"),
    "a name by GLOBAL": (b"cos\nsystem\n(X\x01\0\0\0atR.", r"global os\.system"),
    "a name by INST": (b"(X\x01\0\0\0aios\nsystem\n.", r"opcode INST"),
    "a known name by INST": (b"(inumpy\ndtype\n.", r"opcode INST"),
    "a known name by OBJ": (b"(cnumpy\ndtype\no.", r"opcode OBJ"),
    "keywords": (b"\x80\x04cnumpy\ndtype\n)}\x92.", r"opcode NEWOBJ_EX"),
    "a persistent id": (b"Pid\n.", r"opcode PERSID"),
    "a persistent object": (b"\x80\x04\x8c\x01aQ.", r"opcode BINPERSID"),
    "an extension": (b"\x80\x02\x82\x07.", r"opcode EXT1"),
    "a long extension": (b"\x80\x02\x84\x07\0\0\0.", r"opcode EXT4"),
    "a foreign buffer": (b"\x80\x05\x97.", r"opcode NEXT_BUFFER"),
    "no opcode": (b"\x80\x04\xff.", r"opcode 0xff"),
    "a call of a value": (b"\x80\x04])R.", r"a call of a list"),
    "a class that is a value": (b"\x80\x04])\x81.", r"a call of a list"),
    "a state of a name": (b"\x80\x04cnumpy\ndtype\n}b.", r"a state of a _Name"),
    "a state of a value": (b"\x80\x04]}b.", r"a state of a list"),
    "a name for a value": (b"\x80\x04cnumpy\ndtype\n.", r"it is no value"),
    "a part for a value": (np.dtype("i8"), r"it is no value"),
    "entries of a name": (b"\x80\x04cnumpy\ndtype\nK\x01K\x01s.", r"entries of a _Name"),
    "members of a list": (b"\x80\x04](K\x01\x90.", r"members of a list"),
    "addresses": (array_of((1,), "O", b"\1" * 8), r"an array of object from a bytes"),
    "too large a shape": (array_of((9, 9), "i8", b"\0" * 8), r"an array of 81 int64 from 8 bytes"),
    "a negative shape": (array_of((-1,), "i8", b""), r"one or two dimensions"),
    "a nested shape": (array_of(([],), "i8", b""), r"one or two dimensions"),
    "records": (np.zeros(2, [("a", "i4"), ("b", "O")]), r"numpy element type V12"),
    "dates": (np.zeros(2, "M8[s]"), r"numpy element type M8"),
    "wide texts": (np.array(["x" * 5000]), r"texts of more than 4096"),
    "an object scalar": (Asks(np.float32(1).__reduce__()[0], np.dtype("O"), b""), r"a numpy object scalar"),
    "bytes by a codec": (Asks(codecs.encode, "a", "rot13"), r"another encoding"),
    "keys of any depth": ({((1,),): 1}, r"a key that is a tuple"),
    "a set of tuples": ({(1,)}, r"a key that is a tuple"),
    "a frozen set": (frozenset([1]), r"opcode FROZENSET"),
    "a complex number": (1j, r"global builtins\.complex"),
    "a path": (Path("a"), r"global pathlib"),
    "a series": (pd.Series([1]), r"global pandas.*\.Series"),
    "categories": (FRAME.assign(a=pd.Categorical(["a"] * 3)), r"global pandas\._libs"),
    "another layout": (b"\x80\x04cpandas\nDataFrame\n)\x81}b.", r"a table of another layout"),
}


def made_of(content: Any) -> bytes:
    return content if isinstance(content, bytes) else pickle.dumps(content, 4)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """What the interpreter is asked for while a pickle is read: imports, evaluations, processes, …"""
    monkeypatch.chdir(tmp_path)
    if not HEARD:
        sys.addaudithook(lambda event, _: RECORDED.add(event) if LISTENING else None)
        HEARD.append(True)
    RECORDED.clear()
    return RECORDED


# A hook stays for the life of the process.
RECORDED: set[str] = set()
LISTENING: list[bool] = []
HEARD: list[bool] = []
HARMLESS = {"open", "mmap.__new__"}


def heard(path: Path) -> Any:
    """The value of a pickle, or the error."""
    LISTENING.append(True)
    try:
        return load_plain(path)
    except DataError as error:
        return error
    finally:
        LISTENING.clear()


@pytest.mark.parametrize("case", HOSTILE)
def test_everything_else_is_refused_by_name_and_nothing_is_run(tmp_path: Path, events: set[str], case: str) -> None:
    content, message = HOSTILE[case]
    error = heard(written(tmp_path, made_of(content)))
    assert isinstance(error, DataError) and re.search(rf"a\.pkl: refused: .*{message}", str(error)), str(error)
    assert events <= HARMLESS and {p.name for p in tmp_path.iterdir()} == {"a.pkl"}


def test_a_registered_extension_is_refused_too(tmp_path: Path, events: set[str]) -> None:
    copyreg.add_extension("posix", "system", 7)
    try:
        content = pickle.dumps(Asks(os.system, f"touch {MADE}"), 2)
        assert b"\x82\x07" in content
        assert "opcode EXT1" in str(heard(written(tmp_path, content))) and events <= HARMLESS
    finally:
        copyreg.remove_extension("posix", "system", 7)


DAMAGED = {
    "an empty file": b"",
    "a truncated file": pickle.dumps(FRAME, 4)[:-40],
    "a text": b"<html>quota exceeded</html>",
    "bytes beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"a.",
    "a byte array beyond the end": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
    "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"K\x01.",
    "an empty stack": b"\x80\x04a.",
    "an unknown mark": b"\x80\x04h\x07.",
    "a later protocol": b"\x80\x09N.",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, events: set[str], case: str) -> None:
    path = written(tmp_path, DAMAGED[case])
    with pytest.raises(DataError, match=r"a\.pkl: "):
        plain_table(path)
    with pytest.raises(DataError, match="FileNotFoundError"):
        load_plain(tmp_path / "b.pkl")


def test_an_array_without_values_is_no_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert plain_table(written(tmp_path, {"a": array_of(None, "i8", b""), "b": np.arange(2)})).columns == ["b"]
    assert "column a is left out: an array without values" in caplog.text


def test_a_number_in_the_memo_or_a_depth_takes_no_memory(tmp_path: Path) -> None:
    assert load_plain(written(tmp_path, b"\x80\x04K\x01r\xff\xff\xff\x7f.")) == 1
    value = load_plain(written(tmp_path, b"\x80\x04)" + b"\x85" * 200_000 + b"."))
    assert isinstance(value, tuple) and len(value) == 1


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="bytes; 1 to 10 are read"):
        load_plain(written(tmp_path, list(range(100))))


WHOLE = [pickle.dumps(FRAME, 2), pickle.dumps(FRAME, 5), *(made_of(content) for content, _ in HOSTILE.values())]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.binary())
def test_any_bytes_are_a_value_or_an_error_and_run_nothing(
    tmp_path: Path, events: set[str], whole: bytes, edits: list[tuple[int, int]], more: bytes
) -> None:
    content = bytearray(whole)
    for place, value in edits:
        content[place % len(content)] = value
    for changed in (bytes(content), b"\x80\x04" + more, bytes(content[: len(more)]) + more):
        heard(written(tmp_path, changed))
    assert events <= HARMLESS and {p.name for p in tmp_path.iterdir()} == {"a.pkl"}


def test_no_other_module_reads_pickles() -> None:
    root = Path(unisr.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named = isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "allow_pickle")
            if named or {n.split(".")[0] for n in names} & {"pickle", "_pickle", "dill", "cloudpickle", "joblib"}:
                found.add(path.relative_to(root).as_posix())
    assert found == {"data/plain_pickle.py"}


def test_tables_have_columns_of_numbers_texts_and_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {"keyword": ["[3, 4]", 5, [6], (7,), np.array([8, 9]), None], "ts": [[1.5], [2], [], [], [], []],
               "name": ["a", None, "b", "c", "d", "e"], "odd": [{}, 1, 2, 3, 4, 5], "count": [1, None, 3, 4, 5, 6],
               "share": [0.5, 1, 2, 3, 4, 5], "flags": [[True], [], [], [], [], []]}  # fmt: skip
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame.columns = pd.Index(list(columns), dtype=object)
    table = plain_table(written(tmp_path, frame))
    assert table.schema == {"keyword": pl.List(pl.Int64), "ts": pl.List(pl.Float64), "name": pl.String,
                            "count": pl.Int64, "share": pl.Float64}  # fmt: skip
    assert table["keyword"].to_list() == [[3, 4], [5], [6], [7], [8, 9], None] and table["ts"][1].to_list() == [2.0]
    assert "column odd is left out: a dict" in caplog.text and "column flags is left out" in caplog.text


def test_vocabularies_are_tables(tmp_path: Path) -> None:
    people = {7: {"rec_his": [1, 2], "ts": [1.0, 2.0]}, 8: {"rec_his": [], "ts": []}}
    assert plain_table(written(tmp_path, people)).rows() == [(7, [1, 2], [1.0, 2.0]), (8, [], [])]
    assert plain_table(written(tmp_path, [[0], [5, 6]])).to_dict(as_series=False) == {"words": [[0], [5, 6]]}
    arrays = {"id": np.arange(2), "words": np.array([[1, 2], [3, 0]])}
    assert plain_table(written(tmp_path, arrays)).rows() == [(0, [1, 2]), (1, [3, 0])]
    assert plain_table(written(tmp_path, arrays), ["words", "more"]).columns == ["words"]
    for wrong in (7, {}, {"a": 1}, {"a": {"b": 1}, "c": {"d": 1}}, {"a": np.arange(2), "b": np.arange(3)}):
        with pytest.raises(DataError, match=r"a\.pkl: "):
            plain_table(written(tmp_path, wrong))


def test_a_list_that_every_row_names_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plain_tables, "MAX_VALUES", 1000)
    row = list(range(100))
    assert plain_table(written(tmp_path, [row] * 11)).is_empty()
    assert "1100 numbers; at most 1000" in caplog.text
