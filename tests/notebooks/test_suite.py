"""Every notebook keeps the house rules, and nbval really compares what is stored."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from unisr.report import notebooks

ROOT = Path(__file__).resolve().parents[2]
SOURCES = notebooks.sources()
IGNORED = "nbval-ignore-output"


def code_cells(path: Path) -> list[NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def compared(path: Path) -> list[NotebookNode]:
    return [c for c in code_cells(path) if c.outputs and IGNORED not in c.metadata.get("tags", [])]


def test_there_are_notebooks() -> None:
    assert len(SOURCES) >= 2


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_keeps_the_house_rules(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert nb.cells[0].cell_type == "markdown" and "?" in nb.cells[0].source.splitlines()[0], "starts with a question"
    assert notebooks.parameters(path).get("preset", "quick") == "quick"
    assert nb.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 200_000
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 15
        assert cell.execution_count, "a cell without a count is not compared by nbval: run unisr.report.refresh"
    assert compared(path), "no stored output is compared"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_result_is_typed_into_text(path: Path) -> None:
    """Metrics in text would outlive the runs they came from."""
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    values = re.findall(r"\b0\.\d{3,}\b", text)
    assert not values


@pytest.mark.notebook
def test_nbval_fails_on_one_changed_value(tmp_path: Path) -> None:
    """The same notebook twice, once with one digit of one stored output changed: only that cell fails."""
    source = notebooks.find("01")
    nb = nbformat.read(source, as_version=4)
    nbformat.write(nb, tmp_path / "as_stored.ipynb")
    place, cell = next((i, c) for i, c in enumerate(code_cells(source)) if c in compared(source))
    output = next(c for c in nb.cells if c.id == cell.id).outputs[0]
    digit = re.search(r"\d(?=\D*$)", output.data["text/plain"])
    assert digit
    shown = output.data["text/plain"]
    output.data["text/plain"] = shown[: digit.start()] + str((int(digit[0]) + 1) % 10) + shown[digit.end() :]
    nbformat.write(nb, tmp_path / "changed.ipynb")
    options = ["--nbval", "--nbval-current-env", "-p", "conftest", "-p", "no:cacheprovider", "-q", "-rf"]
    environment = {k: v for k, v in os.environ.items() if k not in ("UNISR_DATA", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )
    failed = re.findall(r"^FAILED (\S+::Cell \d+)", done.stdout, flags=re.MULTILINE)
    assert failed == [f"changed.ipynb::Cell {place}"], done.stdout
    assert done.returncode == 1
