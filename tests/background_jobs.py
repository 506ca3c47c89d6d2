"""What the background process is asked for in tests: functions of a module, as it can import no test."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.training.tiny import train_with_checkpoints
from unisr.errors import ConfigError
from unisr.progress import progress


def facts(number: int) -> dict[str, object]:
    """Prints as libraries do, counts three steps and tells where it ran."""
    print("not an event")
    for _ in progress([1, 2, 3], "counting"):
        time.sleep(0.11)
    return {"number": number, "process": os.getpid(), "threads": torch.get_num_threads(), "home": os.getenv("JOB_HOME")}


def refuse() -> None:
    raise ConfigError("beta -1 is below 0; give a larger one")


def break_down() -> None:
    raise ZeroDivisionError("one by none")


def vanish() -> None:
    os.write(2, b"cannot allocate\n")
    os._exit(3)


def sleep() -> None:
    time.sleep(600)


def train_tiny(folder: str, pause: float) -> list[dict[str, float]]:
    """The training of the resume test; its log."""
    scorer, log = train_with_checkpoints(Path(folder), pause=pause)
    save_file(scorer.state_dict(), Path(folder) / "weights.safetensors")
    return log.rows
