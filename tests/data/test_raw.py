"""Reading official files: every kind of malformed line is counted with its line number, or refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisr.data import raw, raw_lines
from unisr.data.raw import Malformed, blocks, csv_rows, own_folder, unique_rows
from unisr.data.raw_lines import json_lines, literal_lines, parse_literal
from unisr.errors import DataError

NEEDED: dict[str, type] = {"user": str, "time": int}
COLUMNS = {"user": "integer", "time": "time", "words": "words", "name": "text"}
NEVER = re.compile("(?!)")


def written(path: Path, lines: list[bytes]) -> Malformed:
    """A file of the lines, gzip if its name says so."""
    body = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return Malformed(path, limit=0.5)


def json_line(**changed: Any) -> bytes:
    return json.dumps({"user": "u", "time": 7, "more": [1]} | changed).encode()


BAD_JSON = {
    "no JSON": b'{"user": "u", "ti',
    "not UTF-8": b'{"user": "\xff\xfe", "time": 7}',
    "not an object": b"[7]",
    "no user": json_line(user=""),
    "no time": b'{"user": "u"}',
    "wrong type of time": json_line(time="7"),
    "wrong type of user": json_line(user=["u"]),
    "negative time": json_line(time=-1),
    "unknown column else": b'{"user": "u", "time": 7, "else": 1}',
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_each_kind_of_bad_json_is_counted_at_its_line(tmp_path: Path, kind: str) -> None:
    malformed = written(tmp_path / "a.json.gz", [json_line(time=1), BAD_JSON[kind], json_line(time=3), json_line()])
    rows = json_lines(malformed, NEEDED, ["more"])
    assert malformed.counts == {kind: 1} and malformed.first == {kind: [2]} and malformed.lines == 4
    kept = [1, 2, 3, 4] if kind.startswith("unknown") else [1, 3, 4]
    assert rows["line"].to_list() == kept and rows["time"].to_list()[-2:] == [3, 7]


def test_numbers_that_no_column_holds_and_blank_and_deep_lines_are_counted(tmp_path: Path) -> None:
    wrong = [json_line(time=1 << 70), b"", b"[" * 100_000, json_line(time=1.5), json_line(time=True)]
    lines = [*wrong, *[json_line()] * 9]
    malformed = written(tmp_path / "a.json", lines)
    assert json_lines(malformed, NEEDED, ["more"])["line"].to_list() == list(range(6, 15))
    assert malformed.counts == {"wrong type of time": 3, "no JSON": 2}


def test_clean_and_checked_blocks_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json_line(user=f"é{n}", time=n) for n in range(50)] + [json_line(user=5)]
    fast = json_lines(written(tmp_path / "a.json.gz", lines), NEEDED, ["more"])
    monkeypatch.setattr(raw_lines, "_clean_block", lambda *_: None)
    slow = json_lines(written(tmp_path / "b.json.gz", lines), NEEDED, ["more"])
    assert fast.equals(slow) and fast["user"][50] == "5" and fast.schema == slow.schema


def test_line_numbers_go_on_from_block_to_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "BLOCK", 100)
    lines = [json_line(time=n) if n != 30 else b"{" for n in range(1, 61)]
    for name in ("a.json", "a.json.gz"):
        malformed = written(tmp_path / name, lines)
        assert json_lines(malformed, NEEDED, ["more"])["time"].to_list() == [n for n in range(1, 61) if n != 30]
        assert malformed.first == {"no JSON": [30]} and malformed.lines == 60


def test_a_line_longer_than_a_block_is_counted_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "BLOCK", 100)
    malformed = written(tmp_path / "a.json", [json_line(user="x" * 500), *[json_line(time=n) for n in range(20)]])
    assert json_lines(malformed, NEEDED, ["more"])["time"].to_list() == list(range(20))
    assert set(malformed.counts) == {"no JSON"}


def test_a_truncated_archive_is_refused_with_its_last_whole_line(tmp_path: Path) -> None:
    users = [hashlib.sha256(bytes([n % 256])).hexdigest() for n in range(900)]
    malformed = written(tmp_path / "a.json.gz", [json_line(user=user, time=n) for n, user in enumerate(users)])
    whole = malformed.path.read_bytes()
    malformed.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.json\.gz: after line [1-9]\d\d: .*; get the file again"):
        json_lines(malformed, NEEDED, [])


@pytest.mark.parametrize(
    "body",
    [b"no gzip at all", gzip.compress(b"{}\n" * 99, mtime=0)[:-6] + b"\0" * 6, b"\x1f\x8b\x08"],
    ids=["not gzip", "wrong checksum", "header only"],
)
def test_damaged_archives_are_refused(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(body)
    with pytest.raises(DataError, match=r"a\.gz: after line \d+: "):
        list(blocks(Malformed(tmp_path / "a.gz")))
    with pytest.raises(DataError, match="No such file"):
        list(blocks(Malformed(tmp_path / "b.gz")))


def test_the_summary_is_logged_and_too_many_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    malformed = Malformed(tmp_path / "f", lines=1000)
    malformed.add("negative time", range(10, 18))
    malformed.add("no JSON", [3])
    with caplog.at_level(logging.WARNING):
        malformed.close()
    text = "f: 9 of 1000 lines are malformed: 8 x negative time (line 10, 11, 12, 13, 14, …); 1 x no JSON (line 3)"
    assert text in caplog.text
    malformed.add("no JSON", [4, 5])
    with pytest.raises(DataError, match=r"11 of 1000 .*at most 1\.00% may be"):
        malformed.close()
    with pytest.raises(DataError, match="no lines"):
        Malformed(tmp_path / "f").close()


def test_lines_that_nobody_looked_at_do_not_dilute_the_share(tmp_path: Path) -> None:
    malformed = Malformed(tmp_path / "f", lines=1000, passed=900)
    malformed.add("no JSON", [1, 2])
    with pytest.raises(DataError, match="2 of 100 lines"):
        malformed.close()


def test_duplicates_are_counted_and_the_first_is_kept(tmp_path: Path) -> None:
    malformed = Malformed(tmp_path / "f")
    table = pl.DataFrame({"a": [1, 1, 1, 2], "b": [1, 1, 2, 1], "line": [4, 5, 6, 7]})
    assert unique_rows(table, ["a", "b"], malformed)["line"].to_list() == [4, 6, 7]
    assert malformed.first == {"duplicate a, b": [5]}


HEAD = b"user,time,words,name,other"
GOOD = b'5,1684763932919.0,"[12, 7]",n,1'
BAD_CSV = {
    "unknown column": b'5,1,"[1]",n,1,2,3',
    "no user": b',1,"[1]",n,1',
    "no words": b"5,1",
    "no time": b'5,,"[1]",n,1',
    "wrong type of user": b'x,1,"[1]",n,1',
    "wrong type of time": b'5,soon,"[1]",n,1',
    "negative time": b'5,-3,"[1]",n,1',
    "negative user": b'-5,3,"[1]",n,1',
    "wrong type of words": b'5,1,"[1, two]",n,1',
    "name not UTF-8": b'5,1,"[1]",\xff,1',
    "user not UTF-8": b'\xff,1,"[1]",n,1',
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_each_kind_of_bad_row_is_counted_at_its_line(tmp_path: Path, kind: str) -> None:
    malformed = written(tmp_path / "a.csv", [HEAD, GOOD, BAD_CSV[kind], GOOD])
    rows = csv_rows(malformed, COLUMNS, ["other"], pl.lit(True))
    assert malformed.counts == {kind: 1} and malformed.first == {kind: [3]} and malformed.lines == 3
    assert rows.rows() == [(2, 5, 1684763932919, "w12 w7", "n"), (4, 5, 1684763932919, "w12 w7", "n")]


def test_malformed_rows_are_counted_even_where_they_are_not_wanted(tmp_path: Path) -> None:
    malformed = written(tmp_path / "a.csv", [HEAD, GOOD, b'6,1,"[]",,', b'7,-1,"[]",,'])
    rows = csv_rows(malformed, COLUMNS, ["other"], pl.col("user") == 6)
    assert rows.rows() == [(3, 6, 1, "", "")] and malformed.counts == {"negative time": 1}


def test_captions_may_be_missing_and_queries_may_not(tmp_path: Path) -> None:
    lines = [b"a,b", b'1,"[3]"', b"1,", b'1,"[ ]"', b"1,x"]
    malformed = written(tmp_path / "a.csv", lines)
    assert csv_rows(malformed, {"b": "caption"}, ["a"], pl.lit(True))["b"].to_list() == ["w3", "", ""]
    assert malformed.counts == {"wrong type of b": 1}


def test_columns_of_the_header_are_checked(tmp_path: Path) -> None:
    malformed = written(tmp_path / "a.csv", [HEAD + b",novel", GOOD + b",2"])
    assert len(csv_rows(malformed, COLUMNS, ["other"], pl.lit(True))) == 1
    assert malformed.first == {"unknown column novel": [1]}
    with pytest.raises(DataError, match=r"a\.csv: column words, name missing"):
        csv_rows(written(tmp_path / "a.csv", [b"user,time", b"1,2"]), COLUMNS, [], pl.lit(True))


def test_an_endless_quotation_is_refused_with_its_line(tmp_path: Path) -> None:
    malformed = written(tmp_path / "a.csv", [HEAD, GOOD, b'5,1,"[1],n,1', GOOD])
    with pytest.raises(DataError, match=r"a\.csv: line 3: a quotation mark has no end"):
        csv_rows(malformed, COLUMNS, ["other"], pl.lit(True))


def test_the_folder_is_given_or_named_or_holds_the_one_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNISR_SOME", raising=False)
    with pytest.raises(DataError, match=r"Get it\. Then name the folder: --from FOLDER .* UNISR_SOME"):
        own_folder(None, "UNISR_SOME", ["a"], "Get it.")
    with pytest.raises(DataError, match=r"a missing\. Get it"):
        own_folder(tmp_path, "UNISR_SOME", ["a"], "Get it.")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").touch()
    monkeypatch.setenv("UNISR_SOME", str(tmp_path))
    for folder in (None, tmp_path):
        assert own_folder(folder, "UNISR_SOME", ["a"], "") == tmp_path / "inner"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN)
def test_a_literal_is_read_back(value: Any) -> None:
    assert parse_literal(repr(value)) == value


@settings(deadline=None)
@given(st.text() | st.text(alphabet="{}[]()'\"\\:,+-~*0eEjxbf#\n\0 "))
def test_any_text_is_a_literal_or_a_value_error(text: str) -> None:
    try:
        parse_literal(text)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "text",
    ["__import__('os').getcwd()", "[c for c in 'ab']", "{[]: 1}", "9" * 5000, "(" * 5000, "-" * 20_000 + "1",
     " " * (2 << 20), "'a' 'b", "{'a': 1", "", "\0", "f'{1}'", "lambda: 1", "'\ud800"],
)  # fmt: skip
def test_what_is_no_plain_literal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no Python literal|longer than"):
        parse_literal(text)


def test_each_kind_of_bad_literal_is_counted_at_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_lines, "MAX_LINE", 1000)
    lines = [b"{'a': 1}", b"{'a': open('/')}", b"{'a': '\xff'}", b"[1]", b"skip {", b"", b"'" + b"x" * 2000 + b"'"]
    malformed = written(tmp_path / "a.json.gz", lines)
    found = list(literal_lines(malformed, wanted=lambda line: not line.startswith(b"skip"), without=NEVER))
    assert found == [(1, {"a": 1})] and malformed.lines == 7 and malformed.passed == 1
    assert malformed.first == {"no Python literal": [2, 6], "not UTF-8": [3], "not a dictionary": [4], "too long": [7]}


def test_what_is_cut_out_is_not_parsed_and_a_line_that_it_breaks_is_parsed_whole(tmp_path: Path) -> None:
    malformed = written(tmp_path / "a", [b"{'b': [1], 'a': 2}", b"{'a': 'b'}", b"{'c': ''b'': [1]}"])
    found = list(literal_lines(malformed, wanted=lambda _: True, without=re.compile(r"'b'(: \[1\], )?")))
    assert found == [(1, {"a": 2}), (2, {"a": "b"})] and malformed.first == {"no Python literal": [3]}


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_rows_or_counted(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.json"
    read = written(path, lines), written(path, lines)
    rows = json_lines(read[0], NEEDED, [])
    entries = list(literal_lines(read[1], wanted=lambda _: True, without=NEVER))
    assert len(rows) + sum(read[0].counts.values()) == read[0].lines
    assert len(entries) + sum(read[1].counts.values()) == read[1].lines
