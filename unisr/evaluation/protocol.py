"""Rank every query of a split with one scorer, and say in one line under which protocol that was done."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unisr.config import RunConfig
from unisr.data.batches import Batch
from unisr.errors import UnisrError, out_of_memory
from unisr.evaluation.ranks import RankError, expected_rank
from unisr.models.modes import evaluating

if TYPE_CHECKING:
    from unisr.data.loaders import EvaluationLoader
    from unisr.models.base import Scorer

COLUMNS = ("task", "user", "event", "query", "rank", "ties")
"""Of the per-query table: task name, user id, row of the target in the events table, query id (0 for recommendation),
expected rank and number of tied candidates."""
SIZE = "candidates"
"""A further column: the number of candidates, 100 where it is missing."""


class EvaluationError(UnisrError):
    """A scorer or loader that breaks the contract of evaluation."""


def evaluate(
    scorer: Scorer,
    loaders: Mapping[str, EvaluationLoader],
    *,
    device: torch.device | str = "cpu",
    full: bool = False,
    progress: Callable[[Iterable[Any], str], Iterable[Any]] | None = None,
) -> pd.DataFrame:
    """Per-query table with `COLUMNS` and `SIZE`, one row per query, tasks in the order of `loaders`.

    The scorer runs in evaluation mode without gradients and is left in the mode it had; it must be on `device` already.

    Args:
        loaders: task name -> iterable of (Batch, event rows [B], column of the positive [B]).
        full: rank by `score_catalog`; the loaders' candidates are a column per item, 0 where it is no candidate.
        progress: wraps the batches of one task, given a description (`unisr.progress.progress` fits).

    A batch for which memory does not suffice is ranked in halves, and those after it too, with a warning.

    Raises:
        EvaluationError: scores that are not fp32 [B, C], a task without queries, or no memory for a single query.
        RankError: a score is NaN; the message names method, task and event.
    """
    parts, portions = [], _Portions()
    with evaluating(scorer), torch.inference_mode():
        for task, loader in loaders.items():
            batches = progress(loader, f"rank {task}") if progress else loader
            rank = partial(_ranked, scorer, task, device=device, full=full)
            ranked = [part for batch in batches for part in portions.rank(rank, *batch)]
            if not ranked:
                raise EvaluationError(f"no query to rank for task {task!r}; use more users or another split")
            parts.extend(ranked)
    return pd.concat(parts, ignore_index=True)


class _Portions:
    """Queries ranked at once: a whole batch, and after each lack of memory half as many."""

    most: int | None = None

    def rank(
        self, ranked: Callable[..., pd.DataFrame], batch: Batch, rows: np.ndarray, positive: np.ndarray
    ) -> list[pd.DataFrame]:
        """The tables that `ranked` makes of parts of a batch, in order."""
        tables, done = [], 0
        while done < len(batch):
            part = slice(done, min(done + (self.most or len(batch)), len(batch)))
            try:
                tables.append(ranked(batch.select(part), rows[part], positive[part]))
                done = part.stop
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(part.stop - part.start, error)
        return tables

    def _halve(self, size: int, error: BaseException) -> None:
        if size == 1:
            raise EvaluationError(
                "out of memory with a single query; rank fewer candidates (--candidates uniform), use a smaller model, "
                "or a machine or device with more memory"
            ) from error
        self.most = size // 2
        warnings.warn(f"out of memory with {size} queries at once; ranking {self.most} (training.evaluation_batch sets "
                      "it)", stacklevel=2)  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _ranked(
    scorer: Scorer, task: str, batch: Batch, rows: np.ndarray | Tensor, positive: np.ndarray | Tensor,
    *, device: torch.device | str, full: bool,
) -> pd.DataFrame:
    """The per-query table of one batch; column i of a `full` one is item i + 1, if it is a candidate."""
    batch, rows = batch.to(device), np.asarray(rows)
    rank, ties = expected_rank(checked_scores(scorer, task, batch, rows, full=full), positive)
    columns = {"task": task, "user": batch.user.cpu().numpy(), "event": rows, "query": batch.query.cpu().numpy()}
    return pd.DataFrame({**columns, "rank": rank, "ties": ties, SIZE: (batch.candidates > 0).sum(1).cpu().numpy()})


def checked_scores(scorer: Scorer, task: str, batch: Batch, rows: np.ndarray, *, full: bool) -> Tensor:
    """[B, C] scores of a batch on the scorer's device, -inf where a `full` one has no candidate.

    Raises:
        EvaluationError, RankError: as `evaluate`; event `rows` [B] are named.
    """
    name, method = scorer.card.name, "score_catalog" if full else "score"
    scores = getattr(scorer, method)(batch)
    if scores.dtype != torch.float32 or scores.shape != batch.candidates.shape:
        raise EvaluationError(
            f"{name}.{method} returned {scores.dtype} {list(scores.shape)} for task {task!r}; "
            f"it must return torch.float32 {list(batch.candidates.shape)}, one logit per candidate"
        )
    if bool((wrong := scores.isnan().any(1)).any()):
        event = rows[int(wrong.int().argmax())]
        raise RankError(
            f"{name}: NaN among the scores of task {task!r}, event {event} ({int(wrong.sum())} of {len(rows)} queries "
            "of its batch); look for a fully masked attention row, a division by zero or a diverged training"
        )
    return scores.masked_fill(batch.candidates == 0, -torch.inf) if full else scores


CANDIDATE_TEXTS = {
    "uniform": "1 positive + 99 uniform negatives, shuffled, the same for every method",
    "popularity": "1 positive + 99 popularity-sampled negatives, shuffled, the same for every method",
    "hard": "1 positive + 99 hard (same category or BM25) negatives, shuffled, the same for every method",
    "full": "full ranking: all items the user has no event with",
}
HISTORY_TEXTS = {
    "clean": "histories strictly before the target's time",
    "released": "histories by the released code's rule (leaks the target)",
}


def describe_protocol(
    config: RunConfig, counts: Mapping[str, int], *, seeds: Iterable[int], device: str, split: str = "test"
) -> str:
    """One line for the head of a table: data, split, candidates, histories, preset, seeds, device.

    Args:
        counts: from `unisr.data.describe`; empty when unknown.
    """
    size = [f"{name} {value:,}" for name, value in counts.items()]
    size += [f"a sample of {config.max_users} users"] if config.max_users else []
    seeds = sorted(set(seeds))
    return " · ".join([
        config.dataset + (f" ({', '.join(size)})" if size else ""),
        f"leave-one-out per user and task, {split} targets",
        CANDIDATE_TEXTS[config.candidates],
        HISTORY_TEXTS[config.histories],
        "expected rank under ties",
        f"preset {config.preset}",
        f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))})",
        f"device {device}",
    ])
