"""Where bars are drawn, and where they are not."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from unisr.progress import interactive, progress, silent


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.delenv("UNISR_PROGRESS", raising=False)
    for name in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_silent_under_pytest_and_when_switched_off(loud: pytest.MonkeyPatch) -> None:
    assert not silent()
    loud.setenv("PYTEST_VERSION", "9")
    assert silent()
    loud.delenv("PYTEST_VERSION")
    loud.setenv("UNISR_PROGRESS", "0")
    assert silent()


def test_plain_bar_on_stderr_counts_steps(loud: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(3, "steps") as bar:
        bar.update(3)
    assert list(progress([1, 2], "items")) == [1, 2]
    with progress(3, "hidden", show=False) as bar:
        bar.update()
    out, err = capsys.readouterr()
    assert out == "" and "steps: 100%" in err and "3/3" in err and "items: 100%" in err and "hidden" not in err


def test_a_kernel_alone_is_not_a_reader(loud: pytest.MonkeyPatch) -> None:
    """papermill and nbval start kernels too."""
    loud.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert not interactive()
    loud.setenv("JPY_SESSION_NAME", "/notebooks/00_quickstart.ipynb")
    assert interactive()
    loud.delitem(sys.modules, "ipykernel")
    assert not interactive()
