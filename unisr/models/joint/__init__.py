"""Methods that learn from search and recommendation together, one module each."""

from unisr.models.joint.gensr import GenSR, GenSRConfig
from unisr.models.joint.unisar import UniSAR, UniSARConfig

__all__ = ["GenSR", "GenSRConfig", "UniSAR", "UniSARConfig"]
