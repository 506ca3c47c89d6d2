"""Methods that write an item's identifier."""

from unisr.models.generative.genret import GenRet, GenRetConfig
from unisr.models.generative.gensar import GenSAR, GenSARConfig
from unisr.models.generative.gensr_full import GenSRFull, GenSRFullConfig
from unisr.models.generative.tiger import TIGER, TIGERConfig

__all__ = ["GenRet", "GenRetConfig", "GenSAR", "GenSARConfig", "GenSRFull", "GenSRFullConfig", "TIGER", "TIGERConfig"]
