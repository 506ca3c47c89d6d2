"""Data: sources, schema, splits, histories, candidates, batches."""

from unisr.data.prepare import dataset_hash, describe, load_dataset

__all__ = ["dataset_hash", "describe", "load_dataset"]
