"""Methods that learn from search and recommendation together, one module each."""

from unisr.models.joint.bsr import BSR, BSRConfig
from unisr.models.joint.gems import GEMS
from unisr.models.joint.gems_config import GEMSConfig
from unisr.models.joint.gensr import GenSR, GenSRConfig
from unisr.models.joint.jsr import JSR, JSRConfig
from unisr.models.joint.nrhub import NRHUB, NRHUBConfig
from unisr.models.joint.query_seqrec import QuerySeqRec, QuerySeqRecConfig
from unisr.models.joint.sesrec import SESRec, SESRecConfig
from unisr.models.joint.unified_ssr import UnifiedSSR, UnifiedSSRConfig
from unisr.models.joint.unisar import UniSAR, UniSARConfig
from unisr.models.joint.user import USER, USERConfig

__all__ = [
    "BSR",
    "BSRConfig",
    "GEMS",
    "GEMSConfig",
    "GenSR",
    "GenSRConfig",
    "JSR",
    "JSRConfig",
    "NRHUB",
    "NRHUBConfig",
    "QuerySeqRec",
    "QuerySeqRecConfig",
    "SESRec",
    "SESRecConfig",
    "USER",
    "USERConfig",
    "UniSAR",
    "UniSARConfig",
    "UnifiedSSR",
    "UnifiedSSRConfig",
]
