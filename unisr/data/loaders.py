"""Loaders: event rows in, batches out. An epoch is a pure function of (seed, epoch number)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unisr.config import TrainConfig
from unisr.data.batches import CATALOG_CHUNK, Batch, SequenceBatch
from unisr.data.candidates import N_NEGATIVES, Candidates, Catalog
from unisr.data.histories import Histories
from unisr.data.negatives import Sampler
from unisr.data.schema import TASKS, Dataset, Split, Task
from unisr.errors import ConfigError
from unisr.random import generator


class Gather:
    """Turns event rows and history windows of one dataset into the tensors of a batch."""

    def __init__(self, dataset: Dataset) -> None:
        # Row -1 is the padding of windows: it reads the zero put at the end of every column.
        self._columns = {c: np.append(dataset.column(c), 0) for c in ("user", "item", "task", "query")}

    def __call__(self, column: str, rows: np.ndarray) -> Tensor:
        """A column at `rows` (0 where the row is -1), int64 of the same shape."""
        return torch.from_numpy(self._columns[column][rows])

    def batch(self, rows: np.ndarray, window: np.ndarray, candidates: np.ndarray, labels: Tensor | None) -> Batch:
        """The batch of targets `rows [B]` with histories `window [B, L]` and `candidates [B, C]`."""
        return Batch(
            user=self("user", rows),
            items=self("item", window),
            tasks=self("task", window),
            queries=self("query", window),
            candidates=torch.from_numpy(candidates),
            query=self("query", rows),
            task=self("task", rows),
            labels=labels,
        )


class TrainLoader:
    """Batches of training positives of all `tasks`, each with `config.negatives` uniform negatives.

    Every batch holds the tasks in the proportion of their positives, so that they are exhausted
    together, as in UniSAR. `config.epoch_examples` bounds the positives of an epoch by a subsample drawn
    for that epoch. Negatives are outside the user's training items. The positive stands in a random
    column. The last batch may be smaller. With `config.tasks`, the rows of other tasks are then left out of each batch.

    Raises:
        ConfigError: `tasks` is empty or the dataset has no training targets of them.
        DataError: a user has no unseen item.
    """

    def __init__(
        self,
        dataset: Dataset,
        histories: Histories,
        tasks: Sequence[str] = ("rec", "src"),
        *,
        config: TrainConfig,
        history_length: tuple[int, int] = (30, 30),
        seed: int = 0,
    ) -> None:
        self.dataset, self.histories, self.config, self.seed = dataset, histories, config, seed
        self.history_length = history_length
        self._kept = [int(TASKS[t]) for t in config.tasks or tasks]
        self._positives = [dataset.rows(Split.TRAIN, TASKS[t]) for t in tasks]
        total = sum(map(len, self._positives))
        if not total:
            raise ConfigError(f"{dataset.name}: no training targets of the tasks {tuple(tasks)}; allowed: rec, src")
        self.examples = min(total, config.epoch_examples or total)
        """Positives per epoch, of all `tasks`."""
        shares = np.array([len(p) for p in self._positives]) * self.examples / total
        self._bounds = np.round(np.cumsum(np.r_[0, shares])).astype(int)
        self._sampler = Sampler.of(dataset, train_only=True)
        self._gather = Gather(dataset)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self.examples // self.config.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch number `epoch`, the same whenever it is asked for."""
        rng = generator(self.seed, "train batches", epoch)
        order = self._order(rng)
        for start in range(0, len(order), self.config.batch_size):
            rows = order[start : start + self.config.batch_size]
            rows = rows[np.isin(self.dataset.column("task")[rows], self._kept)]
            if len(rows):
                yield self.batch_of(rows, rng)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """`[examples]` event rows: each task shuffled, then interleaved in proportion."""
        rows, places = [], []
        for positives, size in zip(self._positives, np.diff(self._bounds), strict=True):
            rows.append(rng.permutation(positives)[:size])
            places.append((np.arange(size) + rng.random()) / max(size, 1))
        return np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]

    def batch_of(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The batch of the positives at event `rows` [B], with negatives and columns drawn from `rng`."""
        users, positives = self.dataset.column("user")[rows], self.dataset.column("item")[rows]
        n, k = len(rows), self.config.negatives
        column = rng.integers(0, k + 1, n)
        chosen = np.arange(k + 1) == column[:, None]
        candidates = np.empty((n, k + 1), dtype=np.int64)
        candidates[~chosen] = self._sampler.sample(rng, users, k, distinct=False).ravel()
        candidates[chosen] = positives
        window = self.histories.window(rows, *self.history_length)
        return self._gather.batch(rows, window, candidates, torch.from_numpy(chosen.astype(np.float32)))


class EvaluationLoader:
    """Batches of one split and task with their candidates: (batch, event rows [B], positive column [B]).

    With a catalog a batch has fewer rows, so that it ranks about as many items as with sampled candidates.

    max_users: a fixed subset of the users, the same for every method, seed and task.
    """

    def __init__(
        self,
        dataset: Dataset,
        histories: Histories,
        split: Split,
        task_name: str,
        candidates: Candidates | Catalog,
        history_length: tuple[int, int] = (30, 30),
        batch_size: int = 128,
        *,
        max_users: int | None = None,
    ) -> None:
        self.split, self.task_name, self.batch_size = split, task_name, batch_size
        if candidates.kind == "full":
            self.batch_size = max(1, batch_size * (N_NEGATIVES + 1) // min(dataset.n_items, CATALOG_CHUNK))
        self.histories, self.history_length = histories, history_length
        self._gather = Gather(dataset)
        rows, self._items, positive = candidates.of(split, task_name)
        kept = np.arange(len(rows))
        if max_users is not None:
            priority = generator(0, "evaluation users", dataset.name).permutation(dataset.n_users + 1)
            users = dataset.column("user")[rows]
            kept = np.sort(np.argsort(priority[users], kind="stable")[:max_users])
        self.rows, self.positive, self._kept = rows[kept], positive[kept], kept

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        for start in range(0, len(self.rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            rows = self.rows[part]
            window = self.histories.window(rows, *self.history_length)
            batch = self._gather.batch(rows, window, self._items[self._kept[part]], None)
            yield batch, torch.from_numpy(rows), torch.from_numpy(self.positive[part])


class SequenceLoader:
    """Windows of users' training events, for causal encoders trained on all positions in one pass.

    Inputs are the user's recommendation training events, and the search ones too if
    `history_length[1] > 0`; L is the sum of `history_length`. Targets are recommendation training events;
    the state of a target is the last input strictly earlier than it, so targets of one time stamp share
    a state, and those of a user's first stamp have none and are left out. A user's inputs are cut into
    ceil(m / L) stretches of at most L, with a random offset per epoch where the cut leaves room; a window
    holds the last L inputs up to the end of its stretch, and the targets whose state lies in the stretch:
    every target is in exactly one window of an epoch.

    `config.batch_size` counts windows. `config.epoch_examples` bounds an epoch to the share of the windows
    that holds as many targets on average. Histories are always clean here, whatever the rule of evaluation.

    Raises:
        ConfigError: 'rec' is not among the tasks, or there is nothing to train on.
    """

    def __init__(
        self,
        dataset: Dataset,
        histories: Histories,
        tasks: Sequence[str] = ("rec",),
        *,
        config: TrainConfig,
        history_length: tuple[int, int] = (50, 0),
        seed: int = 0,
    ) -> None:
        tasks = config.tasks or tasks
        if "rec" not in tasks:
            raise ConfigError(f"sequences have recommendation targets only; tasks are {tuple(tasks)}, 'rec' is missing")
        self.dataset, self.config, self.seed, self.length = dataset, config, seed, sum(history_length)
        self._gather = Gather(dataset)
        inputs = dataset.column("split") == Split.TRAIN
        if not history_length[1]:
            inputs &= dataset.column("task") == Task.REC
        self._inputs = np.flatnonzero(inputs)
        users, self._starts, sizes = np.unique(
            dataset.column("user")[self._inputs], return_index=True, return_counts=True
        )
        self._ends = self._starts + sizes
        self._cuts = -(-sizes // max(self.length, 1))
        first_input = np.zeros(dataset.n_users + 1, dtype=np.int64)
        first_input[users] = self._starts
        targets = dataset.rows(Split.TRAIN, Task.REC)
        states = np.searchsorted(self._inputs, histories.first_of_time[targets]) - 1
        kept = states >= first_input[dataset.column("user")[targets]]
        self._targets, self._states = targets[kept], states[kept]
        if not self.length or not len(self._targets):
            raise ConfigError(f"{dataset.name}: no training sequences of length {self.length}")
        windows, total = int(self._cuts.sum()), len(self._targets)
        bound = min(total, config.epoch_examples or total)
        self._windows = -(-windows * bound // total)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self._windows // self.config.batch_size)

    def epoch(self, epoch: int) -> Iterator[SequenceBatch]:
        """The batches of epoch number `epoch`, the same whenever it is asked for."""
        rng = generator(self.seed, "train sequences", epoch)
        first, low, high = self._cut(rng)
        order = rng.permutation(len(low))[: self._windows]
        for start in range(0, len(order), self.config.batch_size):
            part = order[start : start + self.config.batch_size]
            yield self._batch(first[part], low[part], high[part])

    def _cut(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stretches [low, high) of the input list and the first input of their user, `[W]` each."""
        user = np.repeat(np.arange(len(self._cuts)), self._cuts)
        number = np.arange(len(user)) - (np.cumsum(self._cuts) - self._cuts)[user]
        size = self._ends - self._starts
        least = size - (self._cuts - 1) * self.length
        offset = rng.integers(least, np.minimum(self.length, size) + 1)
        start = self._starts[user]
        high = np.minimum(start + offset[user] + number * self.length, self._ends[user])
        low = np.maximum(start, start + offset[user] + (number - 1) * self.length)
        return start, low, high

    def _batch(self, first: np.ndarray, low: np.ndarray, high: np.ndarray) -> SequenceBatch:
        place = high[:, None] + np.arange(-self.length, 0)
        window = np.where(place >= first[:, None], self._inputs[np.maximum(place, 0)], -1)
        begin, end = np.searchsorted(self._states, low), np.searchsorted(self._states, high)
        each = begin[:, None] + np.arange(max(1, (end - begin).max()))
        valid = each < end[:, None]
        each = np.where(valid, each, 0)
        states = np.where(valid, self._states[each] - (high - self.length)[:, None], -1)
        return SequenceBatch(
            user=self._gather("user", self._inputs[low]),
            items=self._gather("item", window),
            tasks=self._gather("task", window),
            queries=self._gather("query", window),
            targets=self._gather("item", np.where(valid, self._targets[each], -1)),
            states=torch.from_numpy(states),
        )
