"""Tables that analyses of trained models gave, kept so that a notebook reads what a long computation found.

    results/analysis/<dataset>/<preset>/<name>-<id>/
        analysis.json      name, version, settings, and the runs analyzed
        environment.json   `Environment` of the computation
        table.parquet      one tidy frame

The id is a hash of what analysis.json holds, so that a changed setting, method or run gives another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from unisr import seals
from unisr.config import RunConfig, Settings
from unisr.errors import ConfigError, StoreError
from unisr.paths import results_dir
from unisr.report.environment import Environment
from unisr.report.folders import whole_folder

FILES = ("analysis.json", "environment.json", "table.parquet")


def kept(
    name: str, settings: Settings, configs: Sequence[RunConfig], compute: Callable[[], pd.DataFrame], *,
    version: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """The table of the analysis `name` of the runs of `configs`: read where it is stored, else computed and stored.

    Args:
        configs: of one dataset and preset.
        compute: called without arguments where nothing is stored; a frame of plain columns.
        version: of the analysis; raised when its numbers change.

    Raises:
        ConfigError: `configs` are none, or of several datasets or presets.
        StoreError: the stored table is damaged or incomplete; the message names it.
    """
    about = _about(name, settings, configs, version)
    folder = _folder(about, configs)
    if not folder.exists():
        table = compute().reset_index(drop=True)
        with whole_folder(folder) as draft:
            _write(draft / "analysis.json", about)
            _write(draft / "environment.json", asdict(Environment.of_machine()))
            table.to_parquet(draft / "table.parquet", index=False, write_page_checksum=True)
    return _read(folder, about)


def is_kept(name: str, settings: Settings, configs: Sequence[RunConfig], *, version: int = 1) -> bool:
    """Whether `kept` would read."""
    return _folder(_about(name, settings, configs, version), configs).exists()


def _about(name: str, settings: Settings, configs: Sequence[RunConfig], version: int) -> dict[str, Any]:
    runs = [f"{config.method}-s{config.seed}-{config.config_id}" for config in configs]
    return {"name": name, "version": version, "settings": settings.model_dump(mode="json"), "runs": runs}


def _folder(about: dict[str, Any], configs: Sequence[RunConfig]) -> Path:
    places = {(config.dataset, config.preset) for config in configs}
    if len(places) != 1:
        raise ConfigError(f"analysis {about['name']!r}: needs runs of one dataset and preset, got {sorted(places)}")
    ((dataset, preset),) = places
    number = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    return results_dir() / "analysis" / dataset / preset / f"{about['name']}-{number}"


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _read(folder: Path, about: dict[str, Any]) -> pd.DataFrame:
    remedy = "delete the folder, and it is computed again"
    if missing := [name for name in FILES if not (folder / name).exists()]:
        raise StoreError(f"{folder}: lacks {', '.join(missing)}; {remedy}")
    seals.check(folder, FILES, remedy)
    try:
        stored = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
        table = pq.read_table(folder / "table.parquet", page_checksum_verification=True).to_pandas()
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: cannot be read ({error}); {remedy}") from error
    if stored != about:
        raise StoreError(f"{folder / 'analysis.json'}: edited or moved; {remedy}")
    return table
