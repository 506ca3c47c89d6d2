"""Checkpoints of a training: one folder per finished epoch, there whole or not at all.

    epoch-0003/
      weights.safetensors   trained weights and buffers after the epoch
      best.safetensors      the same after the best epoch so far (only with validation)
      optimizer.pt          optimiser state and the state of every random generator (tensors, read with weights_only)
      state.json            owner, position, schedule and early-stopping state, log
      SHA256SUMS            of these files

Loaders are pure functions of (seed, epoch), so the number of finished epochs is the whole data position.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unisr.errors import StoreError
from unisr.seals import SUMS, damaged, seal
from unisr.training.schedules import Watch

SOURCES = ("config.py", "random.py", "data", "models", "training", "evaluation")
"""What decides the numbers of a training; a checkpoint is bound to these files."""


@dataclass
class Position:
    """Where a training stands: finished epochs, optimiser steps, the watch and one log row per epoch."""

    epoch: int = 0
    step: int = 0
    watch: Watch = field(default_factory=Watch)
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """All that a training needs to go on as if it had not been interrupted."""

    position: Position
    weights: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    generators: list[dict[str, Tensor]]
    """State of the torch generators, one entry per process."""


@lru_cache
def code_version() -> str:
    """12 hexadecimal digits over torch's version and the sources that decide the numbers of a training."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256(torch.__version__.encode())
    for name in SOURCES:
        for path in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """A CPU copy of the module's state without its frozen parameters, which stay as they were built."""
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    state = module.state_dict()
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items() if k not in frozen}


def load_trained(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `trained_state` took.

    Raises:
        StoreError: names are missing or unknown, so the state is of another model.
    """
    frozen = {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}
    missing, unexpected = module.load_state_dict(state, strict=False)
    if wrong := [*(set(missing) - frozen), *unexpected]:
        raise StoreError(f"weights do not fit {type(module).__name__}: {', '.join(sorted(wrong))}; train it again")


def save(folder: Path, owner: str, checkpoint: Checkpoint) -> None:
    """Write `folder/epoch-NNNN` by a rename, then drop the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(checkpoint.weights, temporary / "weights.safetensors")
    if checkpoint.best is not None:
        save_file(checkpoint.best, temporary / "best.safetensors")
    state = {"optimizer": checkpoint.optimizer, "generators": checkpoint.generators}
    try:
        torch.save(state, temporary / "optimizer.pt")
    except RuntimeError as error:
        # torch does not tell what the system said.
        raise OSError(errno.EIO, f"cannot be written ({error})", str(temporary / "optimizer.pt")) from error
    (temporary / "state.json").write_text(json.dumps({"owner": owner, **asdict(checkpoint.position)}))
    seal(temporary)
    final = folder / f"epoch-{checkpoint.position.epoch:04d}"
    os.rename(temporary, final)
    for old in _epochs(folder):
        if old != final:
            shutil.rmtree(old)


def load(folder: Path, owner: str) -> Checkpoint | None:
    """The latest checkpoint in `folder`, or None where there is none.

    Raises:
        StoreError: it belongs to another config or other code, or it is damaged.
    """
    if not (found := _epochs(folder)):
        return None
    latest = found[-1]
    if wrong := [SUMS] if not (latest / SUMS).exists() else damaged(latest):
        raise StoreError(
            f"{latest / wrong[0]}: the checkpoint is damaged; delete {folder}, or run with mode overwrite, to train "
            "from the start"
        )
    state = json.loads((latest / "state.json").read_text())
    if (other := state.pop("owner")) != owner:
        raise StoreError(
            f"{latest} was written by '{other}', this training is '{owner}'; delete {folder} or run with "
            "mode overwrite to train from the start, or go back to that code to resume"
        )
    best = latest / "best.safetensors"
    saved = torch.load(latest / "optimizer.pt", map_location="cpu", weights_only=True)
    return Checkpoint(
        position=Position(**{**state, "watch": Watch(**state["watch"])}),
        weights=load_file(latest / "weights.safetensors"),
        best=load_file(best) if best.exists() else None,
        optimizer=saved["optimizer"],
        generators=saved["generators"],
    )


def _epochs(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-[0-9]*"))
