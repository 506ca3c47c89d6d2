"""One progress bar for every loop that takes longer than a breath.

`UNISR_PROGRESS=0` switches all bars off (tests and stored notebooks do), and so does pytest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm
from tqdm.auto import tqdm as tqdm_auto

FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Variables that JupyterLab, VS Code and Colab give their kernels; papermill and nbval give none of them."""


def interactive() -> bool:
    """Whether a reader sits before a notebook, so that a bar drawn by a widget is seen.

    A kernel alone does not tell: papermill and nbval start one too, where a widget bar stays at 0 %.
    """
    return "ipykernel" in sys.modules and any(name in os.environ for name in FRONT_ENDS)


def silent() -> bool:
    """Whether bars are switched off."""
    return os.environ.get("UNISR_PROGRESS") == "0" or "PYTEST_VERSION" in os.environ


def progress(steps: Iterable[Any] | int, description: str, *, show: bool = True) -> tqdm:
    """A tqdm bar over an iterable, or a bar of `steps` steps moved by `.update()`; close it when done.

    A widget in an interactive notebook; elsewhere plain text on stderr, drawn at most every 10 s.
    """
    options: dict[str, Any] = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
    options |= {"desc": description, "disable": silent() or not show}
    return tqdm_auto(**options) if interactive() else tqdm(**options, mininterval=10, file=sys.stderr)
