"""Recommendation-only methods, one module each."""

from unisr.models.recommendation.bert4rec import BERT4Rec, BERT4RecConfig
from unisr.models.recommendation.collm import CoLLM, CoLLMConfig
from unisr.models.recommendation.din import DIN, DINConfig
from unisr.models.recommendation.fmlp_rec import FMLPRec, FMLPRecConfig
from unisr.models.recommendation.gru4rec import GRU4Rec, GRU4RecConfig
from unisr.models.recommendation.idgenrec import IDGenRec, IDGenRecConfig
from unisr.models.recommendation.lightgcn import LightGCN, LightGCNConfig
from unisr.models.recommendation.sasrec import MergedSASRec, SASRec, SASRecConfig

__all__ = [
    "BERT4Rec",
    "BERT4RecConfig",
    "CoLLM",
    "CoLLMConfig",
    "DIN",
    "DINConfig",
    "FMLPRec",
    "FMLPRecConfig",
    "GRU4Rec",
    "GRU4RecConfig",
    "IDGenRec",
    "IDGenRecConfig",
    "LightGCN",
    "LightGCNConfig",
    "MergedSASRec",
    "SASRec",
    "SASRecConfig",
]
