"""JupyterLab on the loopback address, and a page of it in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat
from playwright.sync_api import ConsoleMessage, ElementHandle, Page

from unisr.paths import data_dir

ROOT = Path(__file__).resolve().parents[2]
DATA, RESULTS = data_dir(), os.environ.get("UNISR_RESULTS")
"""As the user has them: read before the suite's fixtures put private folders in their place."""
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
    "docmanager-extension/plugin": {"autosave": False},
}
"""Cells out of sight are drawn too, so that the page can be read as a whole; no question about news; files stay."""
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
BUSY = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(p => p.textContent.includes('*'))"
COUNTED = r"""[...document.querySelectorAll('.jp-CodeCell')].every(
    c => !c.querySelector('.cm-content')?.textContent.trim()
        || /\d/.test(c.querySelector('.jp-InputPrompt').textContent))"""
KEYS = {
    "div": (("ArrowRight",), ("ArrowLeft",)),
    "select": (("Space", "ArrowDown", "Enter"), ("Space", "ArrowUp", "Enter")),
}
"""What turns a slider and a menu. A menu is opened first: JupyterLab takes the arrows of a closed one for its own."""
DRAWN = """count => {
    const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
    return outputs.length >= count && outputs.every(e => e.offsetHeight > 0
        && (!e.classList.contains('jp-RenderedPlotly') || e.querySelector('.main-svg')));
}"""
"""All stored outputs have a place on the page, and every figure its drawing."""
HEIGHT = """Math.ceil(Math.max(...[...document.querySelectorAll('.jp-Notebook, .jp-Notebook *')].filter(
    e => /Windowed|Notebook/.test(e.className)).map(e => e.scrollHeight)))"""
SHOWN = """e => [...e.closest('.jp-OutputArea').querySelectorAll('.widget-html-content, .widget-html-content ~ *')].map(
    part => part.innerHTML).join()"""
"""What stands beside a control: the views that it redraws."""
LABEL = """() => {
    const e = document.activeElement;
    return (e.closest('.jupyter-widgets')?.querySelector('.widget-label') ?? e).textContent.trim();
}"""
"""Name of the control that has the keyboard."""
HARMLESS = re.compile(r"favicon|ResizeObserver|WebSocket connection to .*(terminals|events)")
"""Of JupyterLab's own pages, whatever stands in the notebook."""
PENDING = re.compile("ranking …|is at work; the ranking")
"""What the playground shows in place of a view that a process is making."""
QUIET = 3.0
"""Seconds that a kernel must have been idle for a key to have had no effect."""


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A server of copies of all notebooks in `folder`; yields its address.

    Runs are kept in `folder` too, unless UNISR_RESULTS names another place.
    """
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "UNISR_PROGRESS": "0",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "UNISR_DATA": str(DATA), "UNISR_RESULTS": RESULTS or str(folder / "results"),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(command, cwd=folder / "notebooks", env=environment, stdout=log, stderr=log)
    try:
        yield _reached(f"http://127.0.0.1:{port}", server, folder / "server.log")
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _reached(address: str, server: subprocess.Popen, log: Path) -> str:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            with urlopen(f"{address}/api"):
                return address
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


class Notebook:
    """A notebook in JupyterLab; `first_view` is how many seconds its stored outputs took from opening to the last."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page, self.errors = page, []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{address}/lab?reset", wait_until="domcontentloaded")
        page.wait_for_selector(".jp-Launcher", timeout=120_000)
        cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
        start = time.monotonic()
        page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path})", name)
        page.wait_for_function(DRAWN, arg=sum(len(c.get("outputs", [])) for c in cells), timeout=300_000)
        self.first_view = time.monotonic() - start

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not HARMLESS.search(f"{message.text} {message.location.get('url', '')}"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def run(self, *, seconds: float = 1800) -> None:
        """Run all cells and wait for the last."""
        self.page.wait_for_function(KERNEL, timeout=60_000)
        self.page.evaluate("window.jupyterapp.commands.execute('runmenu:run-all')")
        self.page.wait_for_function(f"!({BUSY}) && ({COUNTED})", timeout=1000 * seconds, polling=500)

    def tracebacks(self) -> list[str]:
        """Errors that cells show."""
        shown = [part.inner_text() for part in self.page.query_selector_all(".jp-RenderedText")]
        return [text[:300] for text in shown if "Traceback (most recent call last)" in text]

    def controls(self) -> list[ElementHandle]:
        """What a reader can turn: handles of sliders, and menus."""
        return self.page.query_selector_all(".jp-OutputArea :is(.noUi-handle, .widget-dropdown select)")

    def press(self, label: str, what: str) -> None:
        """Go by Tab to the control of this name and press a key there.

        Raises:
            LookupError: it is not among the next 60 stops.
        """
        for _ in range(60):
            self.page.keyboard.press("Tab")
            if self.page.evaluate(LABEL) == label:
                return self.page.keyboard.press(what)
        raise LookupError(f"Tab does not lead to the control {label!r}")

    def turn(self, control: ElementHandle) -> float | None:
        """Move a control there, back and there again by keys alone.

        Returns:
            The longest wait for a view in seconds; None if two places of the control show the same, or keys cannot
            reach it. The first step does not count: a slider may stand at its end, and a view replaces a hint.
        """
        control.focus()
        if not control.evaluate("e => document.activeElement === e"):
            return None
        there, back = KEYS[control.evaluate("e => e.localName")]
        views, waits = zip(*(self._after(control, keys) for keys in (there, back, there)), strict=True)
        return max(waits[1:]) if views[1] != views[2] else None

    def _after(self, control: ElementHandle, keys: tuple[str, ...]) -> tuple[str, float]:
        """What a control's views show after keys, and after how many seconds."""
        before = control.evaluate(SHOWN)
        for key in keys:
            self.page.keyboard.press(key)
        start = quiet = time.monotonic()
        while time.monotonic() - quiet < QUIET:
            shown = control.evaluate(SHOWN)
            if PENDING.search(shown) or not self.page.evaluate(f"{KERNEL}.status === 'idle'"):
                quiet = time.monotonic()
            elif shown != before:
                return shown, time.monotonic() - start
            self.page.wait_for_timeout(50)
        return before, 0.0

    def picture(self, path: Path) -> None:
        """The whole notebook as one image."""
        self.page.set_viewport_size({"width": 1400, "height": min(16_000, self.page.evaluate(HEIGHT) + 150)})
        self.page.evaluate("document.querySelectorAll('.jp-Notebook, .jp-Notebook *').forEach(e => e.scrollTop = 0)")
        self.page.wait_for_timeout(1000)
        self.page.screenshot(path=path)

    def close(self) -> None:
        """End the kernel, and the page."""
        self.page.evaluate(f"{KERNEL}.shutdown()")
        self.page.close()
