"""Methods that write an item's identifier."""

from unisr.models.generative.genret import GenRet
from unisr.models.generative.genret_config import GenRetConfig
from unisr.models.generative.gensar import GenSAR
from unisr.models.generative.gensar_config import GenSARConfig
from unisr.models.generative.gensr_full import GenSRFull, GenSRFullConfig
from unisr.models.generative.tiger import TIGER, TIGERConfig

__all__ = ["GenRet", "GenRetConfig", "GenSAR", "GenSARConfig", "GenSRFull", "GenSRFullConfig", "TIGER", "TIGERConfig"]
