"""Run a notebook with parameters: papermill executes it, and what papermill would let pass is refused.

papermill only warns about an unknown parameter and, without a tagged cell, injects values that the notebook's own
assignments then overwrite; its inspector misses `str | None` annotations. So names are read here with `ast`.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from unisr.errors import ConfigError, UnisrError, UnknownNameError
from unisr.paths import notebooks_dir, results_dir

TAG = "parameters"
RENDERER = "plotly_mimetype+notebook_connected"
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 3600
"""Seconds one cell may take."""


class NotebookError(UnisrError):
    """A notebook whose cells raised; the message names the cell, the error and the partly executed copy."""


def find(name: str) -> Path:
    """The source notebook called `name`: a path, a file name, its stem or its number (`00`, `0`).

    Raises:
        UnknownNameError: no such notebook.
    """
    if Path(name).suffix == ".ipynb" and Path(name).exists():
        return Path(name)
    known = sources()
    number = f"{int(name):02d}_" if str(name).isdigit() else None
    for path in known:
        if path.stem == Path(name).stem or (number and path.name.startswith(number)):
            return path
    raise UnknownNameError("notebook", name, [p.stem for p in known])


def sources() -> list[Path]:
    """The suite's notebooks in reading order."""
    return sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))


def parameters(notebook: NotebookNode | Path) -> dict[str, Any]:
    """Names and default values of the `parameters` cell, in order.

    Raises:
        ConfigError: the second cell is not the one tagged cell, or holds anything but annotated scalars.
    """
    name = notebook.name if isinstance(notebook, Path) else "notebook"
    cells = (_read(notebook) if isinstance(notebook, Path) else notebook).cells
    tagged = [i for i, cell in enumerate(cells) if TAG in cell.metadata.get("tags", [])]
    if tagged != [1] or cells[1].cell_type != "code":
        raise ConfigError(f"{name}: cells tagged {TAG!r}: {tagged}; tag exactly one code cell, the second (index 1)")
    found: dict[str, Any] = {}
    for node in ast.parse(cells[1].source).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value):
            raise ConfigError(f"{name}: parameters cell, line {node.lineno}: write `name: type = value`")
        try:
            found[node.target.id] = ast.literal_eval(node.value)
        except ValueError:
            raise ConfigError(f"{name}: parameters cell, line {node.lineno}: the default must be a literal") from None
    return found


def checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the notebook with `given` laid over them.

    Raises:
        UnknownNameError: `given` names a parameter that the notebook does not have.
    """
    known = parameters(notebook)
    for name in given:
        if name not in known:
            raise UnknownNameError(f"parameter of {notebook.name}", name, known)
    return {**known, **given}


def execute(notebook: Path | str, given: Mapping[str, Any] | None = None, output: Path | None = None) -> Path:
    """Run a notebook with `given` parameters and return the executed copy; the source is never touched.

    The copy goes to `results/<dataset>/<preset>/notebooks/` unless `output` names a file. It appears whole: a run
    that fails leaves `<name>.failed.ipynb` beside it and the copy of an earlier run as it was.

    Raises:
        ConfigError, UnknownNameError: see `parameters` and `checked`.
        NotebookError: a cell raised.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source = find(str(notebook))
    values = checked(source, given or {})
    output = output or folder(values) / source.name
    output.parent.mkdir(parents=True, exist_ok=True)
    failed = output.with_suffix(".failed.ipynb")
    try:
        with environment(PLOTLY_RENDERER=RENDERER, PYDEVD_DISABLE_FILE_VALIDATION="1"):
            papermill.execute_notebook(
                str(source), str(failed), dict(given or {}), kernel_name="python3", progress_bar=False,
                execution_timeout=CELL_TIMEOUT, cwd=str(source.parent),
            )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{source.name}, cell {error.cell_index}: {error.ename}: {error.evalue}; see {failed}"
        ) from error
    os.replace(failed, output)
    return output


def _read(path: Path) -> NotebookNode:
    """A notebook of a file.

    Raises:
        NotebookError: it is damaged.
    """
    try:
        return nbformat.read(path, as_version=4)
    # nbformat raises what the part that is wrong makes it raise.
    except Exception as error:
        raise NotebookError(
            f"{path}: no notebook ({type(error).__name__}: {str(error)[:80]}); execute it again, or get the source "
            "back from the repository"
        ) from error


def folder(values: Mapping[str, Any]) -> Path:
    """Where executed notebooks of these parameters go."""
    return results_dir() / str(values.get("dataset", "any")) / str(values.get("preset", "quick")) / "notebooks"


def to_html(executed: Path, assets: Path) -> Path:
    """Write an executed notebook as HTML beside it, readable offline, and return the page.

    `assets` is the folder with `plotly.min.js`; every other script from a network address is dropped, so widgets show
    the default view that the notebook draws as an ordinary output.
    """
    from nbconvert import HTMLExporter

    nb = _read(executed)
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [_static(output) for output in cell.outputs if WIDGET not in output.get("data", {})]
    page, _ = HTMLExporter(template_name="lab", exclude_input_prompt=True).from_notebook_node(nb)
    script = os.path.relpath(assets / "plotly.min.js", executed.parent)
    target = executed.with_suffix(".html")
    target.write_text(offline(page, script), encoding="utf-8")
    return target


def offline(page: str, plotly_js: str) -> str:
    """`page` with plotly's script read from the relative path `plotly_js` and no other script from the network."""
    page = re.sub(r"<script[^>]*\bsrc=\"https?://[^\"]*\"[^>]*>\s*</script>", "", page)
    page = re.sub(r"<link[^>]*\bhref=\"https?://[^\"]*\"[^>]*>", "", page)
    page = re.sub(r"<script type=\"module\">\s*import\b.*?</script>", "", page, flags=re.DOTALL)
    return page.replace("</head>", f'<script src="{plotly_js}"></script>\n</head>', 1)


def _static(output: NotebookNode) -> NotebookNode:
    """The output with one form of a figure: plotly's JSON is dropped where the HTML of it is there."""
    if "text/html" in output.get("data", {}):
        output.data.pop("application/vnd.plotly.v1+json", None)
    return output


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for the kernel of the notebook, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
