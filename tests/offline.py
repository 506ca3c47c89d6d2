"""The preset `paper` without a model hub, and with no more codes than the synthetic world has items."""

from __future__ import annotations

from unisr.config import ModelConfig
from unisr.models.base import Scorer

HUB_OR_CODES = ("backbone", "lm", "text_encoder", "codes", "dual")
"""Settings taken from the preset `quick`, where a method has them."""


def offline(method: type[Scorer], *others: str) -> ModelConfig:
    """The method's settings of the preset `paper`, these and `others` as in `quick`."""
    quick, paper = method.presets["quick"][1], method.presets["paper"][1]
    taken = {*HUB_OR_CODES, *others} & set(type(quick).model_fields)
    return paper.model_copy(update={name: getattr(quick, name) for name in taken})
