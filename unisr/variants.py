"""Variants of a method that answer a question of the papers: named changes of its preset's settings."""

from __future__ import annotations

from unisr import registry
from unisr.config import Preset, RunConfig
from unisr.errors import UnknownNameError

Change = dict[str, object]
VARIANTS: dict[str, dict[str, Change]] = {
    "GenSAR": {
        "semantic ids": {"identifiers": "semantic"},
        "collaborative ids": {"identifiers": "collaborative"},
        "without alignment tasks": {"alignment": False},
    },
}
"""Method -> name of the variant -> model settings that differ from the preset's."""


def variants(method: str, *, preset: Preset, dataset: str = "ml-100k", seed: int = 0) -> dict[str, RunConfig]:
    """The method itself under its own name, then each of its variants.

    Raises:
        UnknownNameError: no such method, or it has no variants.
    """
    name = registry.method(method).card.name
    if name not in VARIANTS:
        raise UnknownNameError("method with variants", name, VARIANTS)
    shared = {"method": name, "dataset": dataset, "preset": preset, "seed": seed}
    return {name: RunConfig(**shared)} | {
        label: RunConfig(**shared, model=change) for label, change in VARIANTS[name].items()
    }


def label(config: RunConfig) -> str:
    """The name of the variant that a config is, whatever its seed and candidates; else the method's name."""
    same = config.model_dump(include={"method", "dataset", "preset", "seed", "candidates", "histories", "max_users"})
    for name, change in VARIANTS.get(config.method, {}).items():
        if RunConfig(**same, model=change).config_id == config.config_id:
            return name
    return config.method
