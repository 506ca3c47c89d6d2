"""Damaged files of every kind are refused by name with a remedy, or made again; none is half read."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.artefacts import ARTEFACTS, as_text, flipped, small_prose
from unisr.errors import UnisrError

FLIPS = [3, pytest.param(50, marks=pytest.mark.faults)]
RUINS: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "short by a byte": lambda content: content[:-1],
    "a page of a website": lambda content: b"<!doctype html><title>Quota exceeded</title>",
    "zeros": lambda content: bytes(len(content)),
    "other bytes": lambda content: random.Random(0).randbytes(len(content)),
    "missing": lambda content: None,
}
REMEDIES = ("delete", "overwrite", "again", "get the source")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_no_damage_is_read(tmp_path: Path, kind: str, flips: int) -> None:
    artefact = ARTEFACTS[kind]
    with small_prose():
        artefact.make()
        expected, whole = as_text(artefact.read()), tmp_path / "whole"
        made = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.match(artefact.where)]
        files = [path.relative_to(tmp_path) for path in made]
        for top in list(tmp_path.iterdir()):
            shutil.copytree(top, whole / top.name)
        for file in files:
            content = (whole / file).read_bytes()
            for name, ruin in _ruins(content, 0 if artefact.structure_only else flips, str(file)).items():
                _restore(whole, tmp_path)
                (tmp_path / file).unlink() if ruin is None else (tmp_path / file).write_bytes(ruin)
                try:
                    found = as_text(artefact.read())
                except UnisrError as error:
                    assert file.parent.name in str(error) or file.name in str(error), f"{file}, {name}: {error}"
                    assert any(remedy in str(error) for remedy in REMEDIES), f"{file}, {name}: {error}"
                else:
                    # A file that is gone may be one that need not be there, or that was never made.
                    assert found == expected or (name == "missing" and found in EMPTY), f"{file}, {name}"


EMPTY = ("[]", "null")


def _ruins(content: bytes, flips: int, key: str) -> dict[str, bytes | None]:
    ruins = {name: ruin(content) for name, ruin in RUINS.items()}
    for number in range(flips):
        place = random.Random(f"{key} {number}").randrange(len(content))
        ruins[f"bit {place % 8} of byte {place}"] = flipped(content, place)
    return ruins


def _restore(whole: Path, place: Path) -> None:
    for top in whole.iterdir():
        shutil.rmtree(place / top.name)
        shutil.copytree(top, place / top.name)
