"""One user's ranking made readable: query, history, candidates in order, and what the soft filter looked at."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unisr.data.batches import Batch
from unisr.data.candidates import Candidates, Catalog
from unisr.data.histories import Histories
from unisr.data.loaders import Gather
from unisr.data.schema import TASK_TITLES, TASKS, Dataset, Split, Task
from unisr.errors import ConfigError
from unisr.evaluation.ranks import expected_rank
from unisr.models.base import Scorer
from unisr.report.store import Run
from unisr.report.widgets import side_by_side, table

VIEWS = ("cf", "semantic")


@dataclass(frozen=True)
class RankView:
    """What one scorer made of one target."""

    user: int
    task: str
    query: str
    """Text of the query; empty for recommendation."""
    target: str
    """Title of the positive."""
    rank: float
    """1-based expected rank of the positive among the candidates."""
    history: pd.DataFrame
    """Latest first: event (1 = latest), task, title, query; then `cf` and `semantic`, the soft-filter weights for
    `explained` (0–1 each, summing to 1 over the history), where the scorer has them."""
    ranking: pd.DataFrame
    """Best first: rank, title, score (logit), target (whether it is the positive)."""
    explained: str
    """Title of the candidate whose weights are shown."""

    @property
    def weights(self) -> pd.DataFrame:
        """The soft-filter weights in long form: event, view, weight, over the events the filter read.

        Latest first; empty where the scorer has no weights.
        """
        shown = [v for v in VIEWS if v in self.history]
        labels = self.history["event"].astype(str) + " " + self.history["title"]
        wide = self.history[shown].assign(event=labels)[(self.history[shown] > 0).any(axis=1)]
        return wide.melt(id_vars="event", value_vars=shown, var_name="view", value_name="weight")

    def html(self, *, rows: int = 10) -> str:
        """History and the first `rows` candidates side by side, as HTML."""
        asked = f"query “{html.escape(self.query)}”" if self.query else "no query"
        head = (f"<p><b>user {self.user}, {TASK_TITLES[self.task]}</b>: {asked}; the item chosen, "
                f"“{html.escape(self.target)}”, is ranked {self.rank:g} of {len(self.ranking)}.</p>")
        shown = [v for v in VIEWS if v in self.history]
        caption = f"history, weights for “{self.explained}”" if shown else "history"
        ranking = self.ranking.head(rows).assign(target=lambda f: np.where(f["target"], "◀ chosen", ""))
        history = table(self.history.head(rows), bars=shown, caption=caption)
        return head + side_by_side(table(ranking, caption="candidates, best first"), history)


class Inspector:
    """Views of any user's test targets by one scorer, with the candidates every method is ranked on."""

    def __init__(
        self, scorer: Scorer, dataset: Dataset, candidates: Candidates | Catalog, histories: Histories
    ) -> None:
        self.scorer, self.dataset, self.histories = scorer, dataset, histories
        self._targets = {task: candidates.of(Split.TEST, task) for task in scorer.card.tasks}
        self._gather = Gather(dataset)

    @classmethod
    def of(cls, run: Run) -> Inspector:
        """The desk for a stored run, with its weights, data and candidates.

        Raises:
            StoreError: the run was stored without weights.
        """
        from unisr.run import load_scorer, prepare_inputs

        inputs = prepare_inputs(run.config)
        return cls(load_scorer(run), inputs.dataset, inputs.candidates, inputs.histories)

    def users(self, task: str) -> np.ndarray:
        """Users that have a target of `task`, ascending."""
        rows, _, _ = self._task(task)
        return np.unique(self.dataset.column("user")[rows])

    def view(self, user: int, task: str) -> RankView:
        """The scorer's ranking for the target of `user`; the weights are those of its best candidate.

        Raises:
            ConfigError: the scorer does not do `task`, or the user has no target of it.
        """
        batch, positive = self._batch(user, task)
        self.scorer.eval()
        with torch.inference_mode():
            scores = self.scorer.score(batch)
            found = self.scorer.explain(batch) if hasattr(self.scorer, "explain") else {}
        rank, _ = expected_rank(scores, positive)
        order = scores[0].argsort(descending=True, stable=True)
        titles = self.dataset.items["title"].to_numpy()
        items = batch.candidates[0, order].numpy()
        ranking = pd.DataFrame({
            "rank": np.arange(1, len(items) + 1), "title": titles[items], "score": scores[0, order].double().numpy(),
            "target": (order == int(positive[0])).numpy(),
        })
        queries = self.dataset.queries["text"].to_numpy()
        return RankView(
            user=user, task=task, query=str(queries[int(batch.query[0])]),
            target=str(titles[int(batch.candidates[0, int(positive[0])])]), rank=float(rank[0]),
            history=self._history(batch, {view: w[0, order[0]] for view, w in found.items()}), ranking=ranking,
            explained=str(titles[items[0]]),
        )

    def _task(self, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if task not in self._targets:
            raise ConfigError(f"{self.scorer.card.name} does not do {task!r}; it does {', '.join(self._targets)}")
        return self._targets[task]

    def _batch(self, user: int, task: str) -> tuple[Batch, np.ndarray]:
        rows, items, positive = self._task(task)
        place = np.flatnonzero(self.dataset.column("user")[rows] == user)
        if not len(place):
            raise ConfigError(f"user {user} has no {TASK_TITLES[task]} target; users with one: {self.users(task)[:5]}…")
        window = self.histories.window(rows[place], *self.scorer.history_length)
        own = items[place]
        candidates = own[0] > 0
        column = candidates.cumsum()[positive[place]] - 1
        return self._gather.batch(rows[place], window, own[:, candidates], None), column

    def _history(self, batch: Batch, weights: dict[str, Tensor]) -> pd.DataFrame:
        valid = (batch.items[0] > 0).numpy()
        items, tasks, queries = (x[0].numpy()[valid][::-1] for x in (batch.items, batch.tasks, batch.queries))
        names = {int(task): name for name, task in TASKS.items()}
        frame = pd.DataFrame({
            "event": np.arange(1, len(items) + 1),
            "task": [names[int(Task(t))] for t in tasks],
            "title": self.dataset.items["title"].to_numpy()[items],
            "query": self.dataset.queries["text"].to_numpy()[queries],
        })
        return frame.assign(**{view: w.numpy()[valid][::-1] for view, w in weights.items()})
