"""Store the outputs that nbval compares: `python -m unisr.report.refresh [NOTEBOOK …]` executes notebooks in place.

Notebooks run with their default parameters; what differs between two runs of the same code (times, ids, the state of
widgets, the interpreter's version) is not kept, so that a difference in git is a difference in results.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from unisr.paths import whole_file
from unisr.report import notebooks

VIEW = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def refresh(notebook: Path) -> None:
    """Execute a source notebook with its defaults and store the outputs in it.

    Raises:
        ConfigError: the parameters cell is not as `notebooks.parameters` wants it.
        nbclient.exceptions.CellExecutionError: a cell raised; the file is as it was.
    """
    notebooks.parameters(notebook)
    nb = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        nb, kernel_name="python3", timeout=notebooks.CELL_TIMEOUT, record_timing=False, store_widget_state=False,
        resources={"metadata": {"path": str(notebook.parent)}},
    )
    with notebooks.environment(PLOTLY_RENDERER="plotly_mimetype", UNISR_PROGRESS="0"):
        client.execute()
    nb.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    names = count()
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if VIEW in output.get("data", {}):
                    output.data[VIEW]["model_id"] = f"{next(names):032x}"
    with whole_file(notebook) as draft:
        nbformat.write(nb, draft)


if __name__ == "__main__":
    for path in [notebooks.find(name) for name in sys.argv[1:]] or notebooks.sources():
        refresh(path)
        print(path)
