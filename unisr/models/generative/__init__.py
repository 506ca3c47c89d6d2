"""Methods that write an item's identifier."""

from unisr.models.generative.gensr_full import GenSRFull, GenSRFullConfig
from unisr.models.generative.tiger import TIGER, TIGERConfig

__all__ = ["GenSRFull", "GenSRFullConfig", "TIGER", "TIGERConfig"]
