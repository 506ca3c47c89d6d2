"""Ranks, metrics, the evaluation protocol and statistics."""

from unisr.evaluation.metrics import METRICS, consistent, per_query_metrics, summary
from unisr.evaluation.protocol import describe_protocol, evaluate
from unisr.evaluation.ranks import expected_rank, released_rank
from unisr.evaluation.statistics import average_seeds, bootstrap_interval, holm, paired_test

__all__ = [
    "METRICS", "average_seeds", "bootstrap_interval", "consistent", "describe_protocol", "evaluate",
    "expected_rank", "holm", "paired_test", "per_query_metrics", "released_rank", "summary",
]
