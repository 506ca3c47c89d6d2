"""Item ids: atomic, textual, residual k-means, RQ-VAE, and GenSAR's dual-purpose ids."""

from unisr.models.identifiers.dual_purpose import DualConfig, DualIds, fit_dual
from unisr.models.identifiers.item_ids import ItemIds, LevelUsage, atomic, textual
from unisr.models.identifiers.once import fitted_once
from unisr.models.identifiers.residual_kmeans import reconstruction_error, residual_kmeans
from unisr.models.identifiers.rqvae import Fitted, RQVAEConfig, fit_rqvae
from unisr.models.identifiers.semantic import semantic_ids, text_table
from unisr.models.identifiers.sinkhorn import sinkhorn

__all__ = [
    "DualConfig",
    "DualIds",
    "Fitted",
    "ItemIds",
    "LevelUsage",
    "RQVAEConfig",
    "atomic",
    "fit_dual",
    "fit_rqvae",
    "fitted_once",
    "reconstruction_error",
    "residual_kmeans",
    "semantic_ids",
    "sinkhorn",
    "text_table",
    "textual",
]
