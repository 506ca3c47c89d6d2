"""Preparations of amazon-kindle that are killed, each in a process of its own, and one that is left alone.

Run as `python -m tests.data.killed FOLDER` with the raw files. Prints a line of JSON for each: the point, the signal
that ended it, and the names that it left under the dataset's folder; at last the hash of the tables.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import feather

from unisr.data import dataset_hash, download, load_dataset, prepare
from unisr.data.sources import amazon_kindle


def kill(*arguments: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_table(frame: Any, path: Path, **options: Any) -> None:
    """Killed in the middle of the third table."""
    feather_write(frame, path, **options)
    if path.stem == "queries":
        os.truncate(path, path.stat().st_size // 2)
        kill()


def half_removed(folder: Path, **options: Any) -> None:
    """Killed in the middle of removing the tables of another version."""
    if folder.name == "tables":
        (folder / "events.arrow").unlink()
        kill()
    rmtree(folder, **options)


feather_write, rmtree = feather.write_feather, shutil.rmtree
POINTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "reading": (amazon_kindle, "_items", kill),
    "assembling": (amazon_kindle, "assemble", kill),
    "writing a table": (feather, "write_feather", half_table),
    "writing the manifest": (prepare, "describe", kill),
    "putting in place": (download, "put_in_place", kill),
    "removing old tables": (shutil, "rmtree", half_removed),
    "renaming": (Path, "rename", kill),
}


def killed_at(point: str, raw: Path) -> int:
    """The signal that ended a preparation with the function of `point` replaced."""
    # A fork before any library has started a thread: an interpreter for each point would take seconds.
    process = os.fork()
    if not process:
        setattr(*POINTS[point])
        load_dataset("amazon-kindle", folder=raw)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(process, 0)[1])


def main() -> None:
    raw, place = Path(sys.argv[1]), prepare.data_dir() / "amazon-kindle"
    for point in POINTS:
        if point == "removing old tables":
            (place / "tables").mkdir()
            (place / "tables" / "manifest.json").write_text('{"version": 0}')
            (place / "tables" / "events.arrow").touch()
        ended = killed_at(point, raw)
        print(json.dumps({"point": point, "signal": ended, "left": sorted(p.name for p in place.iterdir())}))
    print(dataset_hash(load_dataset("amazon-kindle", folder=raw)))


if __name__ == "__main__":
    main()
