"""A config's settings by their dotted names, and those that differ from its preset's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pandas as pd

from unisr.config import RunConfig

DATA = ("method", "dataset", "preset", "seed", "candidates")
"""Fields of a config that are no settings of a method."""


def settings(config: RunConfig) -> dict[str, Any]:
    """A config's settings by their dotted names, as `unisr run --set` takes them."""
    return pd.json_normalize(config.model_dump(mode="json", exclude=set(DATA))).to_dict("records")[0]


def changes(config: RunConfig) -> str:
    """How a config's settings differ from its preset's, as `model.beta=0.1`; empty if they do not."""
    preset = _of_preset(config.method, config.dataset, config.preset)
    return ", ".join(f"{name}={value}" for name, value in settings(config).items() if preset.get(name, ...) != value)


@lru_cache
def _of_preset(method: str, dataset: str, preset: str) -> dict[str, Any]:
    return settings(RunConfig(method=method, dataset=dataset, preset=preset))
