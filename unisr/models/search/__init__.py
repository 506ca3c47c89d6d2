"""Search-only methods, one module each."""

from unisr.models.search.aem import AEM, ZAM, AEMConfig
from unisr.models.search.copps import CoPPS, CoPPSConfig
from unisr.models.search.hem import HEM, HEMConfig
from unisr.models.search.qem import QEM, QEMConfig
from unisr.models.search.tem import TEM, MergedTEM, TEMConfig

__all__ = [
    "AEM",
    "CoPPS",
    "HEM",
    "QEM",
    "TEM",
    "ZAM",
    "AEMConfig",
    "CoPPSConfig",
    "HEMConfig",
    "MergedTEM",
    "QEMConfig",
    "TEMConfig",
]
