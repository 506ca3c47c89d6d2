"""Prose of installed packages: what counts as a sentence, parts that share nothing, and the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisr.data import prose as module
from unisr.data.prose import PARTS, is_english, prose, prose_card, sentences
from unisr.errors import DataError, UnknownNameError

DOCSTRING = """Fit the model to the data that it is given.

    This is what the :func:`fit` of ``sklearn`` does, but it also takes weights [1]_. Call ``a.fit(x, y)`` first.
    See the :ref:`user guide <guide>` for what *else* there is to know about it.

    Parameters
    ----------
    x : array of shape (n, d)
        The rows of the matrix are the samples
        that the model is fitted to.
    copy : bool, default True
        If it is set, then the data are copied.

    - one thing to keep in mind is the scale
    - The items of a list may also be sentences, if they
      are written as such.

    >>> This is an example and should not be in the text.
    This is what it prints and not what is to be read.
    """
SENTENCES = [
    ["Fit the model to the data that it is given."],
    ["This is what the fit of sklearn does, but it also takes weights.",
     "See the user guide for what else there is to know about it."],
    ["The rows of the matrix are the samples that the model is fitted to."],
    ["If it is set, then the data are copied."],
    ["The items of a list may also be sentences, if they are written as such."],
]  # fmt: skip


def test_sentences_of_a_docstring_without_code_and_markup() -> None:
    found = list(sentences(DOCSTRING))
    assert found[: len(SENTENCES)] == SENTENCES
    assert not any("example" in s for paragraph in found for s in paragraph)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("The dog is in the house.", True),
        ("Is the dog in the house that we saw?", True),
        ("the dog is in the house.", False),
        ("The dog is in the house", False),
        ("The dog sleeps.", False),
        ("The value of x_i is in the house.", False),
        ("It is so that a = b for all of the rows.", False),
        ("Return numpy.array of the given input and the mask.", False),
        ("Red green blue yellow black white brown.", False),
        ("It is at 1 2 3 4 5 6 of the 7 8 9.", False),
        ("It is " + "the house and " * 40 + "more.", False),
    ],
)
def test_whole_sentences_of_plain_words(line: str, expected: bool) -> None:
    assert is_english(line) is expected


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A standard library of 400 files, each with a sentence of its own and one that all have; no packages."""
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(module, "PACKAGES", {})
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path / "library"))
    monkeypatch.setattr(module, "_key", lambda: "0" * 12)
    (tmp_path / "library" / "tests").mkdir(parents=True)
    letters = "abcdefghijklmnopqrst"
    names = [a + b for a in letters for b in letters]
    for name in names:
        own = f'"""The file is named {name} and it has a sentence.\n\nThis is a sentence that all files have."""\n'
        (tmp_path / "library" / f"{name}.py").write_text(own + "raise RuntimeError\n")
    (tmp_path / "library" / "tests" / "zz.py").write_text('"""This is what a test says and is not read."""')
    for cached in (module._parts, module._versions):
        cached.cache_clear()
    yield tmp_path
    for cached in (module._parts, module._versions):
        cached.cache_clear()


def test_parts_take_each_document_and_sentence_once(library: Path) -> None:
    lines = {part: [line for text in prose(part) for line in text.split("\n")] for part in PARTS}
    every = [line for own in lines.values() for line in own]
    assert len(every) == len(set(every)) == 401
    assert "This is a sentence that all files have." in lines["evaluation"]
    assert 0 < len(lines["evaluation"]) < len(lines["projection"]) < len(lines["pretraining"])
    assert 0.9 * 400 < len(lines["pretraining"])


def test_order_mixes_names_and_depends_on_them_alone(library: Path) -> None:
    first = prose("pretraining")
    names = [text.split()[4] for text in first]
    assert names != sorted(names)
    module._parts.cache_clear()
    for path in (library / "data" / "prose").iterdir():
        path.unlink()
    assert prose("pretraining") == first


def test_kept_prose_is_read_and_a_damaged_file_is_made_again(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = {part: prose(part) for part in PARTS}
    (path,) = (library / "data" / "prose").iterdir()
    content = path.read_text()
    edited = json.loads(content)
    edited["projection"][0] += " And more."
    for damaged in (content[:100], "[]", "{}", json.dumps(edited)):
        path.write_text(damaged)
        module._parts.cache_clear()
        caplog.clear()
        assert {part: prose(part) for part in PARTS} == first
        assert "damaged" in caplog.text and path.read_text() == content
    # What is kept is not read from the packages again.
    (library / "library").rename(library / "gone")
    module._parts.cache_clear()
    assert {part: prose(part) for part in PARTS} == first


def test_without_prose_the_error_says_what_to_do(library: Path) -> None:
    (library / "library").rename(library / "gone")
    with pytest.raises(DataError, match="install unisr's dependencies"):
        prose("evaluation")


def test_card_counts_words(library: Path) -> None:
    card = prose_card()
    for part in PARTS:
        texts = prose(part)
        assert card["parts"][part]["documents"] == len(texts)
        assert card["parts"][part]["words"] == sum(len(text.split()) for text in texts)
    assert len({own["sha256"] for own in card["parts"].values()}) == 3 and set(card["packages"]) == {"python"}


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean evaluation"):
        prose("evaluations")


@pytest.mark.slow
def test_installed_packages_hold_enough() -> None:
    parts = prose_card()["parts"]
    least = {"pretraining": 1_200_000, "projection": 60_000, "evaluation": 10_000}
    assert all(parts[part]["words"] >= least[part] for part in PARTS)
    together = {line for part in PARTS for text in prose(part) for line in text.split("\n")}
    assert len(together) == sum(len(text.split("\n")) for part in PARTS for text in prose(part))
