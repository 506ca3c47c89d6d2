"""What `pytest --nbval` compares: text. Rendered forms differ between machines and carry random ids."""

from __future__ import annotations

from typing import Any

SKIPPED = (
    "stderr",
    "text/html",
    "image/png",
    "image/svg+xml",
    "application/javascript",
    "application/vnd.jupyter.widget-view+json",
)


def pytest_collectstart(collector: Any) -> None:
    """Tell each notebook collector which outputs not to compare."""
    if collector.fspath and collector.fspath.ext == ".ipynb" and hasattr(collector, "skip_compare"):
        collector.skip_compare += SKIPPED
