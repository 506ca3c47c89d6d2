"""One progress bar for every loop that takes longer than a breath.

`UNISR_PROGRESS=0` switches all bars off (tests and stored notebooks do), and so does pytest.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm import tqdm
from tqdm.auto import tqdm as tqdm_auto

FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Variables that JupyterLab, VS Code and Colab give their kernels; papermill and nbval give none of them."""


class Listener(Protocol):
    """Is told what this process does, in place of bars; called in the thread that works, so it must be quick."""

    def steps(self, name: str, done: int, total: int | None) -> None:
        """A loop called `name` has done `done` of `total` steps (None: unknown)."""

    def epochs(self, name: str, rows: list[dict[str, float]]) -> None:
        """The training of method `name` ended an epoch; `rows` is its whole log (see `unisr.training.TrainLog`)."""


_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` what every loop of this process does, and draw no bar, until the block ends."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def tell_epochs(name: str, rows: list[dict[str, float]]) -> None:
    """Tell the listener, if there is one, the log of a training so far."""
    if _listener:
        _listener.epochs(name, rows)


class _Told(tqdm):
    """A bar that is told to a listener, at most ten times a second."""

    def __init__(self, listener: Listener, **options: Any) -> None:
        self.listener = listener
        super().__init__(**options, file=io.StringIO())

    def display(self, *args: Any, **kwargs: Any) -> None:
        self.listener.steps(self.desc.removesuffix(": "), self.n, self.total)


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

    A widget in an interactive notebook; elsewhere plain text on stderr, drawn at most every 10 s. A listener gets it
    in their place.
    """
    options: dict[str, Any] = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
    if _listener and show:
        return _Told(_listener, **options, desc=description)
    options |= {"desc": description, "disable": silent() or not show}
    return tqdm_auto(**options) if interactive() else tqdm(**options, mininterval=10, file=sys.stderr)
