"""What a query string alone tells: a table that can be counted by hand, and the real query files where they are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from unisr.analysis.query_strings import QueryStringSettings, query_strings
from unisr.errors import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon_product_search_qrels" / "Kindle_Store"


def write(folder: Path, pairs: list[tuple[str, int, str]]) -> Path:
    folder.mkdir()
    queries = 1 + max(number for _, number, _ in pairs)
    (folder / "query_text.txt.gz").write_bytes(gzip.compress(b"".join(b"books %d\n" % n for n in range(queries))))
    lines = "".join(f"{user}_{number} 0 {item} 1 \n" for user, number, item in pairs)
    (folder / "test.qrels.gz").write_bytes(gzip.compress(lines.encode()))
    return folder


def item(number: int) -> str:
    return f"B{number:09d}"


def test_ranks_follow_from_what_others_bought_after_the_string(tmp_path: Path) -> None:
    """Queries 0 and 1 have 60 items each; items of query 0 have two buyers, those of query 1 one."""
    pairs = [(f"{who}{n}", 0, item(n)) for n in range(60) for who in "AB"]
    pairs += [(f"C{n}", 1, item(60 + n)) for n in range(60)]
    frame = query_strings(QueryStringSettings(searches=180), write(tmp_path / "kindle", pairs))
    assert len(frame) == 180
    bought, alone = frame[frame["query"] == 0], frame[frame["query"] == 1]
    assert bought["found"].all() and not alone["found"].any()
    also = (99 * bought["also"]).round()
    assert (bought["rank"] == 1 + also / 2).all(), "in the middle of the candidates that answer the string"
    assert (alone["rank"] > 50).all(), "the others of the string come first"
    assert (bought["released"] == 1).all(), "a tie is won by the first column"


def test_without_the_files_the_remedy_is_told(tmp_path: Path) -> None:
    settings = QueryStringSettings(searches=123)
    with pytest.raises(DataError, match=r"no query_text\.txt\.gz .* named by UNISR_KINDLE"):
        query_strings(settings)
    with pytest.raises(DataError, match=str(tmp_path)):
        query_strings(settings, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the official query files are not at hand")
def test_the_real_strings_find_nearly_every_target() -> None:
    frame = query_strings(QueryStringSettings(searches=500), REAL)
    assert frame["found"].mean() > 0.9 and frame["also"].mean() < 0.1 and frame["tied"].mean() > 0.5
