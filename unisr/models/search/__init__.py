"""Search-only methods, one module each."""

from unisr.models.search.tem import TEM, MergedTEM, TEMConfig

__all__ = ["TEM", "MergedTEM", "TEMConfig"]
