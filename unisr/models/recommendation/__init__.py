"""Recommendation-only methods, one module each."""

from unisr.models.recommendation.lightgcn import LightGCN, LightGCNConfig
from unisr.models.recommendation.sasrec import MergedSASRec, SASRec, SASRecConfig

__all__ = ["LightGCN", "LightGCNConfig", "MergedSASRec", "SASRec", "SASRecConfig"]
