"""Official files at full size: seconds and memory of their preparation, and the loader's speed on the tables.

    unisr bench raw [--dataset kindle|kuaisar] [--scale 1.0] [--json]

Files in the official formats are generated into a temporary folder (TMPDIR says where), prepared as `unisr prepare`
does, and streamed as a training reads them: 30 + 30 events of history, 4 negatives, 1,024 positives a batch. Each of
the three steps has a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from unisr.benchmarks.official_files import write_kindle, write_kuaisar
from unisr.config import TrainConfig
from unisr.data.histories import Histories
from unisr.data.loaders import TrainLoader
from unisr.data.prepare import load_dataset
from unisr.run import peak_memory_mb

STREAMED_SECONDS = 10.0
"""Batches are drawn for so long, or through one epoch."""
EXAMPLES_TARGET = 20_000


@dataclass(frozen=True)
class Shape:
    """Full-size files of one dataset, and what its preparation may take on two cores."""

    source: str
    write: Callable[..., None]
    sizes: dict[str, int]
    seconds: float
    gigabytes: float


SHAPES = {
    # A search for each purchase makes two million events of one million reviews.
    "kindle": Shape("amazon-kindle", write_kindle, {"users": 68_223, "items": 61_934, "events": 1_000_000}, 60, 4),
    "kuaisar": Shape(
        "kuaisar", write_kuaisar,
        {"users": 25_877, "items": 6_890_707, "recs": 14_605_716, "searches": 5_059_169}, 300, 12,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What one process took: seconds by the clock and of processors, and its peak memory in GB (10^9 bytes)."""

    seconds: float
    processor_seconds: float
    peak_gigabytes: float
    found: dict[str, float]
    """What the step tells of its work."""


def measure(name: str, scale: float, folder: Path) -> dict[str, Step]:
    """Write, prepare and stream the files of `SHAPES[name]` with sizes times `scale`, in an empty folder."""
    steps = {"write": _write, "prepare": _prepare, "stream": _stream}
    return {step: _apart(work, name, scale, folder) for step, work in steps.items()}


def _apart(work: Callable[[Shape, float, Path], dict[str, float]], name: str, scale: float, folder: Path) -> Step:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, work, name, scale, folder).result()


def _timed(work: Callable[[Shape, float, Path], dict[str, float]], name: str, scale: float, folder: Path) -> Step:
    os.environ["UNISR_DATA"] = str(folder / "data")
    begin, processor = time.perf_counter(), time.process_time()
    found = work(SHAPES[name], scale, folder / "raw")
    seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    return Step(seconds, processor, peak_memory_mb("cpu") / 1000, found)


def _write(shape: Shape, scale: float, raw: Path) -> dict[str, float]:
    shape.write(raw, **{size: max(1, round(count * scale)) for size, count in shape.sizes.items()})
    return {"gigabytes": sum(path.stat().st_size for path in raw.iterdir()) / 1e9}


def _prepare(shape: Shape, scale: float, raw: Path) -> dict[str, float]:
    dataset = load_dataset(shape.source, folder=raw)
    return {"users": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}


def _stream(shape: Shape, scale: float, raw: Path) -> dict[str, float]:
    begin = time.perf_counter()
    dataset = load_dataset(shape.source)
    loaded = time.perf_counter()
    loader = TrainLoader(dataset, Histories(dataset), config=TrainConfig(batch_size=1024, negatives=4))
    indexed, processor, examples = time.perf_counter(), time.process_time(), 0
    for batch in loader.epoch(0):
        examples += len(batch)
        if time.perf_counter() - indexed > STREAMED_SECONDS:
            break
    seconds, processor = time.perf_counter() - indexed, time.process_time() - processor
    return {
        "load": loaded - begin, "index": indexed - loaded, "examples": examples,
        "per_second": examples / seconds, "per_processor_second": examples / processor,
    }  # fmt: skip


def table(measured: dict[str, dict[str, Step]]) -> pd.DataFrame:
    """A row for each measure, a column for each dataset, cells as text with the target where there is one."""
    columns = {}
    for name, steps in measured.items():
        shape, (write, prepare, stream) = SHAPES[name], (steps[s] for s in ("write", "prepare", "stream"))
        columns[name] = {
            "files, GB": f"{write.found['gigabytes']:.3f}",
            "written, s": f"{write.seconds:.1f}",
            **{f"{n} of the tables": f"{prepare.found[n]:,.0f}" for n in ("users", "items", "events")},
            "prepared, s": f"{prepare.seconds:.1f} (at most {shape.seconds:.0f})",
            "prepared, processor s": f"{prepare.processor_seconds:.1f}",
            "peak memory of it, GB": f"{prepare.peak_gigabytes:.2f} (at most {shape.gigabytes:.0f})",
            "loaded, s": f"{stream.found['load']:.1f}",
            "histories and loader built, s": f"{stream.found['index']:.1f}",
            "examples streamed": f"{stream.found['examples']:,.0f}",
            "examples/s": f"{stream.found['per_second']:,.0f} (at least {EXAMPLES_TARGET:,})",
            "examples/processor s": f"{stream.found['per_processor_second']:,.0f}",
            "peak memory of streaming, GB": f"{stream.peak_gigabytes:.2f}",
        }
    return pd.DataFrame(columns)


def main() -> None:
    """Measure one dataset or both and print the table; `--json` prints one object instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=SHAPES, help="default: both, one after the other")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes; the targets are those of 1")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    measured: dict[str, dict[str, Step]] = {}
    for name in [given.dataset] if given.dataset else SHAPES:
        with tempfile.TemporaryDirectory(prefix="unisr-raw-") as folder:
            measured[name] = measure(name, given.scale, Path(folder))
    if given.json:
        told: dict[str, Any] = {n: {s: asdict(step) for s, step in steps.items()} for n, steps in measured.items()}
        print(json.dumps({"scale": given.scale, "measured": told}))
        return
    print(f"Generated official files, scale {given.scale:g}, {os.cpu_count()} processors")
    print(table(measured).to_string())


if __name__ == "__main__":
    main()
