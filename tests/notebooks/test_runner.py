"""The notebook runner refuses what papermill would let pass and leaves no half-written file."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from unisr.errors import ConfigError, UnknownNameError
from unisr.report import notebooks

CELL = 'dataset: str = "synthetic"\nlimit: int | None = None\nrate: float = -0.5'


def write(path: Path, *code: str, cell: str = CELL, at: int = 1, tags: tuple[str, ...] = ("parameters",)) -> Path:
    cells = [new_markdown_cell("# A question?"), *map(new_code_cell, code)]
    cells.insert(at, new_code_cell(cell, metadata={"tags": list(tags)}))
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def test_parameters_reads_what_papermill_misses(tmp_path: Path) -> None:
    assert notebooks.parameters(write(tmp_path / "a.ipynb")) == {"dataset": "synthetic", "limit": None, "rate": -0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tags": ()}, "tag exactly one"), ({"at": 2}, "tag exactly one"), ({"cell": "seed = 0"}, "name: type = value"),
     ({"cell": "seed: int = 1 + len('a')"}, "must be a literal"), ({"cell": "seed: int"}, "name: type = value")],
)
def test_a_bad_parameters_cell_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write(tmp_path / "a.ipynb", "1", **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        notebooks.execute(path, output=tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_two_tagged_cells_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", "1")
    nb = nbformat.read(path, as_version=4)
    nb.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(nb, path)
    with pytest.raises(ConfigError, match=r"\[1, 2\]"):
        notebooks.parameters(path)


def test_an_unknown_parameter_is_refused_with_the_near_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean limit"):
        notebooks.execute(write(tmp_path / "a.ipynb"), {"limits": 3}, tmp_path / "out.ipynb")


def test_an_unknown_notebook_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown notebook"):
        notebooks.find("77")


@pytest.mark.notebook
def test_execute_injects_and_keeps_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))
    path = write(tmp_path / "a.ipynb", "dataset, limit, rate", "import os; os.environ['PLOTLY_RENDERER']")
    before = path.read_bytes()
    executed = notebooks.execute(path, {"limit": 7})
    assert executed == tmp_path / "results" / "synthetic" / "quick" / "notebooks" / "a.ipynb"
    assert path.read_bytes() == before
    outputs = [c.outputs[0].data["text/plain"] for c in nbformat.read(executed, as_version=4).cells if c.get("outputs")]
    assert outputs == ["('synthetic', 7, -0.5)", f"'{notebooks.RENDERER}'"]


@pytest.mark.notebook
def test_a_failing_cell_is_named_and_an_earlier_copy_stays(tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    output.write_text("earlier")
    with pytest.raises(notebooks.NotebookError, match="a.ipynb, cell 2: ZeroDivisionError"):
        notebooks.execute(write(tmp_path / "a.ipynb", "1 / 0"), output=output)
    assert output.read_text() == "earlier"
    assert output.with_suffix(".failed.ipynb").exists()


def test_offline_page_loads_nothing_from_the_network() -> None:
    page = ('<head><script src="https://a/require.js"></script><link rel="x" href="https://b/c.css">'
            '<script type="module">import m from "https://d/m.mjs"; m()</script></head>'
            '<script charset="utf-8" src="https://cdn.plot.ly/p.js" integrity="x"></script><div>kept</div>')
    made = notebooks.offline(page, "../plotly.min.js")
    assert "http" not in made and "kept" in made
    assert made.count("<script") == 1 and '<script src="../plotly.min.js"></script>' in made
