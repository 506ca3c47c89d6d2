"""What a run was made with: versions, machine, source revision, hashes of its data."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from unisr.data.candidates import Candidates, Catalog
    from unisr.data.schema import Dataset

PACKAGES = (
    "unisr", "torch", "numpy", "pandas", "transformers", "peft", "accelerate", "safetensors", "torch_geometric",
    "bm25s", "scipy", "scikit-learn", "vector-quantize-pytorch", "torchjd",
)


@dataclass(frozen=True)
class Environment:
    """Stored with every run as environment.json."""

    device: str
    """As torch names it, with the name of the accelerator."""
    dataset_hash: str = ""
    candidates_hash: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """Of the dataset, from `unisr.data.describe`."""
    packages: dict[str, str] = field(default_factory=dict)
    python: str = ""
    platform: str = ""
    cpu: str = ""
    threads: int = 0
    commit: str = ""
    """Revision of the source checkout, with "+" if it had changes; empty outside a checkout."""

    @classmethod
    def capture(cls, *, device: torch.device | str, dataset: Dataset, candidates: Candidates | Catalog) -> Environment:
        """This process's environment, for a run on `device` with these data."""
        from unisr.data import dataset_hash, describe

        hashes = {"dataset_hash": dataset_hash(dataset), "candidates_hash": candidates.digest()}
        return replace(cls.of_machine(device), counts=describe(dataset), **hashes)

    @classmethod
    def of_machine(cls, device: torch.device | str = "cpu") -> Environment:
        """This process's environment, of no data."""
        device = torch.device(device)
        name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
        return cls(
            device=name, packages=_versions(), python=platform.python_version(), platform=platform.platform(),
            cpu=_cpu(), threads=torch.get_num_threads(), commit=_commit(),
        )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """The processor's model name and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {cores} cores"


def _commit() -> str:
    """The git revision of the checkout that holds this package."""
    folder = Path(__file__).resolve().parent.parent.parent
    if not (folder / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "unisr")
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
