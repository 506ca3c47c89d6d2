"""Generated official files: what a reader gives is what the line says, or the line is counted, or the file refused.

Each reader is held against a slow and strict reading of the same line by Python's own parsers.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import strategies as st

from tests.faults.fuzz import EXAMPLES, NUMBERS, PER_FILE, TEXTS, VALUES, fuzz, some, spoiled
from unisr.data.plain_pickle import load_plain
from unisr.data.plain_tables import plain_table
from unisr.data.raw import Malformed
from unisr.data.raw_lines import parse_literal
from unisr.data.schema import Task
from unisr.data.sources import amazon_kindle, kuaisar, ml_100k, office, qilin
from unisr.errors import DataError

examples = pytest.mark.parametrize("examples", EXAMPLES)
MOST = 2**63


@pytest.fixture(autouse=True)
def _no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not refused for their share of malformed lines, so that each line can be looked at."""
    monkeypatch.setattr(Malformed, "close", lambda self: None)


def lines_of(content: bytes) -> list[bytes]:
    return content.removesuffix(b"\n").split(b"\n") if content else []


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# Amazon: reviews

REVIEW = st.fixed_dictionaries({}, optional={
    "reviewerID": st.sampled_from(["A1", "A2"]) | VALUES, "asin": st.sampled_from(["B1", "B2"]) | VALUES,
    "unixReviewTime": st.integers(0, 2**31) | VALUES, "helpful": VALUES, "more": VALUES,
}).map(lambda entry: as_bytes(json.dumps(entry, ensure_ascii=False)))  # fmt: skip
TWICE = st.sampled_from([b'{"reviewerID": "A", "reviewerID": "B", "asin": "C", "unixReviewTime": 5}',
                         b'{"reviewerID": "A", "asin": "C", "unixReviewTime": 5} {}',
                         b'{"reviewerID": "A", "asin": "C", "unixReviewTime": 05}',
                         b'{"reviewerID": "A", "asin": "\\ud800", "unixReviewTime": 5}',
                         b'{"reviewerID": "A", "asin": "\\ud83d\\ude00", "unixReviewTime": 5}',
                         b'{"reviewerID": "A", "asin": "C", "unixReviewTime": 5.0}',
                         b'{"reviewerID": "A", "asin": "C", "unixReviewTime": 1e2}', b"", b"\r", b"[]"])  # fmt: skip
FILE = some(REVIEW | spoiled(REVIEW) | TWICE).map(b"\n".join)


HALF = re.compile(r"[\ud800-\udfff]")


def review(line: bytes) -> tuple[str, str, int] | None:
    """What a line says; None where it is malformed."""
    try:
        entry = json.loads(line.decode(), object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, list) or not all(isinstance(pair, tuple) for pair in entry):
        return None
    names, values = [name for name, _ in entry], dict(entry)
    if len(set(names)) < len(names) or not all(name in values for name in amazon_kindle.NEEDED):
        return None
    user, item, time = (values[name] for name in amazon_kindle.NEEDED)
    if type(time) is not int or not 0 <= time < MOST:
        return None
    texts = [str(v) if type(v) in (str, int, float) else "" for v in (user, item)]
    return (*texts, time) if all(text and not HALF.search(text) for text in texts) else None


@examples
def test_reviews(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "reviews.json"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        count, rows = amazon_kindle._reviews(path)
        lines = lines_of(content)
        assert count == len(lines)
        for user, item, time, line in rows.select(*amazon_kindle.NEEDED, "line").rows():
            assert (user, item, time) == review(lines[line - 1]), lines[line - 1]
        read = {row[:2] for row in rows.select("reviewerID", "asin").rows()}
        # Nothing well formed is lost, apart from numbers in the place of texts, which a strict reader may refuse.
        said = [review(line) for line in lines if b'"reviewerID": "' in line and b'"asin": "' in line]
        assert {row[:2] for row in said if row} <= read

    fuzz(FILE, check, examples, each=PER_FILE)


# Amazon: metadata

RELATED = st.sampled_from(["plain", "it's 'related': {'a': [1]}, here", "'related': {}", 'a "quoted" word', "x\\ny"])
ENTRY = st.fixed_dictionaries(
    {"asin": st.sampled_from(["B1", "B2"]) | VALUES, "categories": st.just([["Books", "Kindle"]]) | VALUES},
    optional={"description": RELATED | VALUES, "title": TEXTS | RELATED, "related": st.just({"also_bought": ["B7"]}),
              "brand": VALUES, "more": VALUES},
).map(lambda entry: as_bytes(repr(entry)))  # fmt: skip


@examples
def test_metadata(tmp_path: Path, examples: int) -> None:
    path, asins = tmp_path / "meta.json", pl.Series(["B1", "B2"])

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = amazon_kindle._items(path, asins).drop_nulls("line")
        for row in found.to_dicts():
            text = lines_of(content)[row["line"] - 1].decode()
            try:
                entry = parse_literal(text)
            except ValueError:
                # Damage within the lists of related items, which no table needs, does not count.
                entry = parse_literal(amazon_kindle.RELATED.sub("", text))
            assert row["asin"] == entry["asin"] and amazon_kindle._flaw(entry) == ""
            assert (row["title"], row["text"], row["category"]) == amazon_kindle._texts(entry), entry

    fuzz(some(ENTRY | spoiled(ENTRY)).map(b"\n".join), check, examples, each=PER_FILE)


# Amazon: query files

QUERY = (st.text(max_size=8) | st.sampled_from(["a\x0bb", "a\x85b", "a\u2028b", "c\x1dd"])).map(
    lambda text: as_bytes(text.replace("\n", " ").encode(errors="replace").decode()))  # fmt: skip
JUDGED = st.sampled_from([b"A1_0 0 B1 1", b"A1_1 0 B1 1", b"A1_2 0 B1 0", b"A1_9 0 B1 1 ",
                          "A1_١ 0 B1 1".encode(), b"A1_00000000001 0 B1 1"])  # fmt: skip


@examples
def test_query_files(tmp_path: Path, examples: int) -> None:
    def check(files: tuple[list[bytes], bytes]) -> None:
        queries, judgements = files
        with gzip.open(tmp_path / amazon_kindle.QUERY_TEXTS, "wb", 1) as file:
            file.write(b"\n".join(queries) + b"\n" * bool(queries))
        for name in amazon_kindle.QRELS:
            with gzip.open(tmp_path / name, "wb", 1) as file:
                file.write(judgements)
        texts, rows = amazon_kindle.judged(tmp_path)
        assert [as_bytes(text) for text in texts] == queries
        said = [re.fullmatch(rb"(\w+)_([0-9]{1,9}) 0 (\w+) 1 ?", line) for line in lines_of(judgements)]
        whole = [m for m in said if m and int(m[2]) < len(queries)]
        # Names in other scripts are names too, which bytes do not tell.
        expected = [(m[1].decode(), m[3].decode(), int(m[2])) for m in whole]
        assert [row for row in rows.rows() if "".join(row[:2]).isascii()] == expected * len(amazon_kindle.QRELS)

    judgements = some(JUDGED | spoiled(JUDGED)).map(b"\n".join)
    fuzz(st.tuples(some(QUERY) | st.just([]), judgements), check, examples, each=PER_FILE)


# KuaiSAR

SHOWN = ["user_id", "item_id", "search_session_timestamp", "click_cnt", "keyword"]
CELL = st.integers(0, 9).map(str) | st.sampled_from(["1684763932919", "1684763932919.0", "[12, 7]", "[]"]) | TEXTS


@st.composite
def csv_file(draw: st.DrawFn, names: list[str]) -> bytes:
    """Rows of cells, most of them of the right kind, as a csv file."""
    right = dict(zip(SHOWN, ["5", "7", "1684763932919.0", "1", "[12, 7]"], strict=True))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for _ in range(PER_FILE):
        writer.writerow([draw(CELL) if draw(st.booleans()) else right[name] for name in names])
    return as_bytes(text.getvalue())


def whole_number(text: str, *, as_float: bool = False) -> int | None:
    """The number that a text is in the digits of a file; None for anything else."""
    if as_float and re.fullmatch(r"[0-9]+\.0*", text):
        text = text.split(".")[0]
    return int(text) if re.fullmatch(r"\+?[0-9]+", text) and int(text) < MOST else None


@examples
def test_searches_of_kuaisar(tmp_path: Path, examples: int) -> None:
    """A row that is read holds the numbers and words that its cells say."""
    path = tmp_path / "src_inter.csv"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        malformed = Malformed(path)
        kinds = dict(zip(SHOWN, ["integer", "integer", "time", "integer", "words"], strict=True))
        try:
            rows = kuaisar.csv_rows(malformed, kinds, [], pl.lit(True))
        except DataError as error:
            assert "src_inter.csv" in str(error)
            return
        # A quoted cell may hold the end of a line; then rows are not lines, and Python's reader says which they are. It
        # also ends a line at a carriage return alone, which is part of a cell here.
        text = re.sub(r"\r(?!\n)", " ", content.decode("utf-8", "replace"))
        cells = list(csv.reader(io.StringIO(text, newline=""), strict=False))[1:]
        wrong = sum(n for kind, n in malformed.counts.items() if not kind.startswith("unknown column "))
        assert malformed.lines == len(rows) + wrong
        for line, user, item, time, clicks, words in rows.select("line", *SHOWN).rows():
            said = [cell.strip() for cell in cells[line - 2]]
            # Where a quote begins inside a cell, the two readers differ in where the cell ends.
            if len(said) != len(SHOWN) or '"' in said[4]:
                continue
            assert [user, item, clicks] == [whole_number(said[SHOWN.index(n)]) for n in
                                            ("user_id", "item_id", "click_cnt")], said  # fmt: skip
            assert time == int(float(said[2])) and re.fullmatch(r"[-+.eE0-9]+", said[2]), said
            assert words == " ".join(f"w{n}" for n in re.findall(r"\d+", said[4])), said

    whole = csv_file(SHOWN)
    fuzz(whole | spoiled(whole), check, examples, each=PER_FILE)


# Qilin

COUNT = st.none() | st.integers(-2, 9) | NUMBERS | TEXTS | st.booleans()


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame | None:
    """The rows as a table of whatever types they have; None where there is no such table."""
    try:
        return pl.DataFrame(rows, strict=False, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, OverflowError, ValueError, pl.exceptions.PanicException):
        return None


@examples
def test_requests_of_qilin(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "train.parquet"
    column, clock = qilin.DETAILS[Task.SRC]
    note = st.fixed_dictionaries({"note_idx": COUNT, "click": COUNT, clock: COUNT})
    same = st.fixed_dictionaries({"note_idx": st.integers(0, 9), "click": st.sampled_from([0, 1]),
                                  clock: st.integers(0, 2**40)})  # fmt: skip
    request = st.fixed_dictionaries({
        "user_idx": st.integers(0, 3) | COUNT, "query": TEXTS | COUNT,
        column: st.lists(same | note, max_size=3) | VALUES,
        "recent_clicked_note_idxs": st.lists(st.integers(0, 9), max_size=2) | VALUES,
    })  # fmt: skip

    def check(rows: list[dict[str, Any]]) -> None:
        if (frame := frame_of(rows)) is None:
            return
        try:
            frame.write_parquet(path)
        except pl.exceptions.PolarsError:
            return
        try:
            found = qilin.requests(path, Task.SRC)
        except DataError as error:
            assert "train.parquet" in str(error)
            return
        written = frame["user_idx"].to_list()
        for user in found["user"].to_list():
            assert any(str(user) in (str(w), str(w).removesuffix(".0")) or w is bool(user) for w in written), written
        items = {str(shown["item"]) for row in found["shown"].to_list() for shown in row}
        said = {str(shown["note_idx"]).removesuffix(".0") for row in frame[column].to_list() for shown in row or []
                if shown is not None}
        assert items <= said | {"0", "1"}, (items, said)

    fuzz(some(request), check, examples, each=PER_FILE)


@examples
def test_damaged_parquet_files(tmp_path: Path, examples: int) -> None:
    path, rows = tmp_path / "train.parquet", [{"user_idx": n, "query": f"q{n}", "search_result_details_with_idx": [
        {"note_idx": n, "click": 1.0, "search_timestamp": 5}], "recent_clicked_note_idxs": [n]} for n in range(40)]
    pl.DataFrame(rows).write_parquet(path)
    whole = path.read_bytes()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            qilin.requests(path, Task.SRC)
        except DataError as error:
            assert "train.parquet" in str(error)

    fuzz(spoiled(st.just(whole)), check, examples)


# pickles

FRAME = pd.DataFrame({"user_id": [1, 2], "score": [0.5, 1], "keyword": [[1, 2], []]})
PICKLES = [pickle.dumps(value, protocol) for protocol in (2, 4, 5)
           for value in (FRAME, {"a": np.arange(3), "b": ["x", "y", "z"]}, [[1, 2], [3]], {1: {"h": [1]}})]  # fmt: skip


@examples
def test_pickles(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "user.pkl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        for read in (load_plain, plain_table):
            try:
                read(path)
            except DataError as error:
                assert "user.pkl" in str(error)

    fuzz(spoiled(st.sampled_from(PICKLES)) | st.binary(max_size=40), check, examples)


# MovieLens

RATING = st.sampled_from([b"1\t2\t5\t881250949", b"3\t4\t4.0\t0"])
CELLS = st.lists(TEXTS.map(as_bytes), min_size=4, max_size=4).map(b"\t".join)


@examples
def test_ratings_of_movielens(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "u.data"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = ml_100k._ratings(path, header=False)
        except DataError as error:
            assert "u.data" in str(error)
            return
        said = [[whole_number(cell.strip(), as_float=True) for cell in line.split("\t")]
                for line in content.decode().rstrip("\n").split("\n")]  # fmt: skip
        assert found.to_numpy().tolist() == said

    fuzz((some(RATING | spoiled(RATING)) | some(CELLS)).map(b"\n".join), check, examples, each=PER_FILE)


MOVIE = st.sampled_from([b"1|Toy Story (1995)|01-Jan-1995||u|" + b"|".join([b"0"] * 18 + [b"1"]),
                         "2|Café (1996)|||x|".encode("latin-1") + b"|".join([b"1"] + [b"0"] * 18)])  # fmt: skip


@examples
def test_movies_of_movielens(tmp_path: Path, examples: int) -> None:
    def check(files: tuple[bytes, bytes]) -> None:
        for name, content, read in zip(("u.item", "ml-100k.item"), files,
                                       (ml_100k._grouplens_movies, ml_100k._recbole_movies), strict=True):
            (tmp_path / name).write_bytes(content)
            try:
                found = ml_100k._items(read(tmp_path / name).assign())
            except DataError as error:
                assert name in str(error)
                continue
            if name == "u.item":
                keys = [whole_number(line.split("|")[0].strip(), as_float=True)
                        for line in content.decode("latin-1").rstrip("\n").split("\n")]  # fmt: skip
                assert found["key"].tolist() == list(map(str, keys))

    recbole = some(CELLS | spoiled(st.just(b"1\tToy Story\t1995\tComedy")))
    movies = some(MOVIE | spoiled(MOVIE))
    files = st.tuples(movies.map(b"\n".join), recbole.map(lambda rows: b"\n".join([b"head", *rows])))
    fuzz(files, check, examples, each=PER_FILE)


# Office

PRODUCTS = st.dictionaries(
    st.sampled_from(["0", "1"]) | TEXTS,
    st.fixed_dictionaries({"title": TEXTS | st.just("Pen")}, optional={"brand": VALUES}) | VALUES, max_size=3,
)  # fmt: skip
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(["A", "B"]), CELL | st.sampled_from(["[1]", "[1, 2]"]), CELL), max_size=3
)


@examples
def test_files_of_office(tmp_path: Path, examples: int) -> None:
    def check(files: tuple[bytes, bytes]) -> None:
        products, rows = files
        (tmp_path / office.ITEMS).write_bytes(products)
        (tmp_path / office.VALID).write_bytes(rows)
        for read, name in ((lambda: office._items(tmp_path / office.ITEMS), office.ITEMS),
                           (lambda: office._events([tmp_path / office.VALID]), office.VALID)):
            try:
                found = read()
            except DataError as error:
                assert name in str(error)
                continue
            if name == office.ITEMS:
                said = json.loads(gzip.decompress(products))
                assert found["title"].tolist() == [office._clean(said[str(n)]["title"]) for n in range(len(said))]
            assert not found.isna().any(axis=None)

    def table(rows: list[tuple[str, str, str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text).writerows([("user_id", "history_item_id", "item_id"), *rows])
        return as_bytes(text.getvalue())

    products = PRODUCTS.map(lambda entries: gzip.compress(json.dumps(entries).encode(), 1))
    rows = SEQUENCES.map(lambda rows: gzip.compress(table(rows), 1))
    fuzz(st.tuples(products | spoiled(products), rows | spoiled(rows)), check, examples)
