"""What the generated inputs found, each case small and by name."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError
from safetensors import SafetensorError
from typer.testing import CliRunner

from tests.report.stored import saved
from unisr.cli import app
from unisr.config import RunConfig, TrainConfig
from unisr.data.raw import Malformed
from unisr.data.raw_lines import json_lines
from unisr.data.raw_parquet import whole
from unisr.data.sources import amazon_kindle, ml_100k, office, qilin
from unisr.errors import ConfigError, DataError, out_of_memory, told
from unisr.paths import whole_file
from unisr.report import notebooks, store

NEEDED: dict[str, type] = {"user": str, "time": int}


def read_json(path: Path, *lines: bytes) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    path.write_bytes(b"\n".join(lines))
    malformed = Malformed(path)
    return json_lines(malformed, NEEDED, []).rows(), malformed.counts


def test_half_a_character_is_malformed_and_a_whole_one_is_read(tmp_path: Path) -> None:
    """The columnar reader made "\\0" of the first, the other one ended with a traceback."""
    half, pair = rb'{"user": "\ud800", "time": 1}', rb'{"user": "\ud83d\ude00", "time": 2}'
    for lines in ((half, pair), (b"{}", half, pair)):
        rows, counts = read_json(tmp_path / "a.json", *lines)
        assert [row[:2] for row in rows] == [("\U0001f600", 2)] and counts["user not UTF-8"] == 1


def test_an_object_with_a_name_twice_is_malformed(tmp_path: Path) -> None:
    """One reader took the first value, the other one the last."""
    twice, once = b'{"user": "a", "user": "b", "time": 1}', b'{"user": "c", "time": 2}'
    assert read_json(tmp_path / "a.json", twice, once) == ([("c", 2, 2)], {"no JSON": 1})


def test_a_description_that_looks_like_a_list_of_related_items_is_kept(tmp_path: Path) -> None:
    entry = {"asin": "B1", "categories": [], "description": "it's 'related': {'a': 1}, here", "related": {"a": ["B2"]}}
    (tmp_path / "meta.json").write_text(repr(entry) + "\n")
    found = amazon_kindle._items(tmp_path / "meta.json", pl.Series(["B1"]))
    assert found["text"].to_list() == [entry["description"]]


def test_queries_are_numbered_by_the_end_of_lines_alone(tmp_path: Path) -> None:
    """A line separator within a query shifted the numbers of all that follow."""
    for name, text in ((amazon_kindle.QUERY_TEXTS, "a\u2028b\x0bc\nd\n"), (amazon_kindle.QRELS[0], "U_1 0 B 1\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    texts, rows = amazon_kindle.judged(tmp_path)
    assert texts == ["a\u2028b\x0bc", "d"] and rows["number"].to_list() == [1]


def test_digits_of_other_scripts_are_no_number_of_a_query(tmp_path: Path) -> None:
    path = tmp_path / amazon_kindle.QRELS[0]
    path.write_bytes(gzip.compress("U_١ 0 B 1\n".encode()))
    with pytest.raises(DataError, match="1 of 1 lines are malformed: 1 x not '<user>_<query>"):
        amazon_kindle.qrels(path, 2)


@pytest.mark.parametrize("number", ["inf", "1e3", "9007199254740993", "2.5", "-1", "", "nan"])
def test_a_rating_of_no_whole_number_is_refused(tmp_path: Path, number: str) -> None:
    """Infinity became the smallest integer, and a number of sixteen digits its neighbour."""
    (tmp_path / "u.data").write_text(f"1\t{number}\t5\t881250949\n")
    with pytest.raises(DataError, match="item is .* not a whole number"):
        ml_100k._ratings(tmp_path / "u.data", header=False)


def test_a_part_of_a_number_is_not_cut_off() -> None:
    frame = pl.DataFrame({"a": [0.5, 2.0, None, float("nan"), float("inf")]})
    assert frame.select(whole(pl.col("a")))["a"].to_list() == [None, 2, None, None, None]
    big = pl.DataFrame({"a": [2**53 + 1, -(2**63)]})
    assert big.select(whole(pl.col("a"))).equals(big)


def test_a_page_that_makes_polars_panic_is_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panics(*_: Any, **__: Any) -> None:
        raise pl.exceptions.PanicException("invalid num_bits 123")

    monkeypatch.setattr(pl.LazyFrame, "collect", panics)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: invalid num_bits 123; get the file again"):
        qilin.parquet_rows(Malformed(tmp_path / "a.parquet"), ["a"], None, a=pl.col("a"))


def test_a_file_of_office_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / office.VALID).write_bytes(gzip.compress(b"user_id,history_item_id,item_id\n"))
    with pytest.raises(DataError, match="holds no rows"):
        office._events([tmp_path / office.VALID])


@pytest.mark.parametrize("given", [1, "epochs=3", [["epochs", 3]], True])
def test_settings_that_are_no_fields_by_name_are_refused(given: Any) -> None:
    for part in ("training", "model"):
        with pytest.raises(ConfigError, match="fields by name"):
            RunConfig.model_validate({"method": "Popularity", part: given})
    with pytest.raises(ConfigError, match="fields by name"):
        RunConfig.model_validate(given)


def test_an_infinite_setting_is_refused() -> None:
    """JSON has no word for it, so that its run could not be stored."""
    with pytest.raises(ValidationError, match="finite"):
        TrainConfig(learning_rate=float("inf"))


def test_a_stored_config_of_another_shape_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    run = saved([1])
    (run.folder / "config.json").write_text('{"config": {"method": "Popularity", "training": 1}}')
    with pytest.raises(store.StoreError, match="config.json: no config of this version"):
        store.load(run.folder)


def test_a_damaged_notebook_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text('{"cells": [')
    with pytest.raises(notebooks.NotebookError, match=r"a\.ipynb: no notebook .* execute it again"):
        notebooks.parameters(tmp_path / "a.ipynb")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EFBIG, "ulimit -f"), (errno.EROFS, "the right"),
     (errno.EACCES, "the right"), (errno.ENOTDIR, "a file stands"), (errno.EMFILE, "--jobs"), (errno.EIO, "see that")],
)  # fmt: skip
def test_an_error_of_the_system_is_told_with_place_and_remedy(
    monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "/some/place")

    monkeypatch.setattr("unisr.data.load_dataset", fails)
    done = CliRunner().invoke(app, ["prepare", "synthetic"])
    assert done.exit_code == 1 and done.stderr.startswith(f"error: /some/place: {os.strerror(number)}; ")
    assert remedy in done.stderr and "UNISR_DATA" in done.stderr + ("UNISR_DATA" if number == errno.EMFILE else "")
    assert "Traceback" not in done.stderr


def test_errors_of_the_system_are_known_and_others_are_not_hidden() -> None:
    full = told(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert full and "No space left on device; free space" in full
    assert told(BrokenPipeError(errno.EPIPE, "closed")) is None and told(KeyError("a")) is None
    assert told(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")) is not None
    assert out_of_memory(MemoryError()) and not out_of_memory(RuntimeError("shapes do not fit"))


def test_an_interrupt_says_that_the_command_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unisr.data.load_dataset", interrupted)
    done = CliRunner().invoke(app, ["prepare", "synthetic"])
    assert done.exit_code == 130 and "goes on from what is stored" in done.stderr


def test_the_draft_of_a_killed_process_is_removed_by_the_next_that_writes_the_file(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}.parquet" for name in ("a-0a1b2c3d", "a-4e5f6071", "b-0a1b2c3d"))
    for path in (old, young, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    with whole_file(tmp_path / "a.parquet") as draft:
        draft.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, other.name, "a.parquet"]
