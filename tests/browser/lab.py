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

from playwright.sync_api import ConsoleMessage, ElementHandle, Page

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
}
"""Cells out of sight are drawn too, so that the page can be read as a whole; and no question about news."""
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
HEIGHT = """Math.ceil(Math.max(...[...document.querySelectorAll('.jp-Notebook, .jp-Notebook *')].filter(
    e => /Windowed|Notebook/.test(e.className)).map(e => e.scrollHeight)))"""
SHOWN = """e => [...e.closest('.jp-OutputArea').querySelectorAll('.widget-html-content, .widget-html-content ~ *')].map(
    part => part.innerHTML).join()"""
"""What stands beside a control: the views that it redraws."""
HARMLESS = re.compile(r"favicon|ResizeObserver|WebSocket connection to .*(terminals|events)")
"""Of JupyterLab's own pages, whatever stands in the notebook."""


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A server of copies of all notebooks in `folder`; yields its address. No run of the user is touched."""
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
        "UNISR_RESULTS": str(folder / "results"), "JUPYTER_CONFIG_DIR": str(folder / "config"),
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
    """A notebook in JupyterLab."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page, self.errors = page, []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{address}/lab/tree/{name}?reset", wait_until="domcontentloaded")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not HARMLESS.search(f"{message.text} {message.location.get('url', '')}"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def run(self, *, seconds: float = 600) -> None:
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

    def turn(self, control: ElementHandle, *, seconds: float = 60) -> bool:
        """Move a control by keys alone; whether what its output area shows changes."""
        before = control.evaluate(SHOWN)
        control.focus()
        if not control.evaluate("e => document.activeElement === e"):
            return False
        for keys in KEYS[control.evaluate("e => e.localName")]:
            for key in keys:
                self.page.keyboard.press(key)
                self.page.wait_for_timeout(200)
            until = time.monotonic() + seconds / 2
            while time.monotonic() < until:
                if control.evaluate(SHOWN) != before:
                    return True
                self.page.wait_for_timeout(200)
        return False

    def picture(self, path: Path) -> None:
        """The whole notebook as one image."""
        self.page.set_viewport_size({"width": 1400, "height": min(16_000, self.page.evaluate(HEIGHT) + 150)})
        self.page.evaluate("document.querySelectorAll('.jp-Notebook, .jp-Notebook *').forEach(e => e.scrollTop = 0)")
        self.page.wait_for_timeout(1000)
        self.page.screenshot(path=path)
