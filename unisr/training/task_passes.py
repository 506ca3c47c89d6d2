"""The backward passes of a step of the GEMS optimizer: one per task, and one over all rows where it is asked for."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.schema import TASKS
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.training.gems import GEMS
from unisr.training.log import Meter
from unisr.training.task_gradients import SHARED


def covered_weights(scorer: Scorer, config: TrainConfig) -> list[nn.Parameter]:
    """The weights that GEMS trains, each once.

    Raises:
        ConfigError: the method covers nothing or cannot be trained by task, or settings exclude each other.
    """
    name, tasks, layers = scorer.card.name, set(config.tasks or scorer.card.tasks), scorer.covered()
    if not layers:
        raise ConfigError(f"training.subspace: {name} covers no weights (Scorer.covered); set it to null")
    if scorer.feeds_on != "examples" or (config.subspace.task_subspaces and tasks != set(TASKS)):
        trained = f"{scorer.feeds_on} of {', '.join(sorted(tasks))}"
        raise ConfigError(f"training.subspace: {name} is trained on {trained}; "
                          "subspaces of tasks need both: set task_subspaces to false, or subspace to null")  # fmt: skip
    if config.aggregator != "sum":
        raise ConfigError(f"training.aggregator={config.aggregator!r} and training.subspace exclude each other; weigh "
                          "tasks by training.subspace.task_weights, or set one to its default")  # fmt: skip
    if frozen := [layer for layer, linear in layers.items() if not linear.weight.requires_grad]:
        raise ConfigError(f"training.subspace: covered weights of {name} are frozen ({', '.join(frozen[:3])} …); "
                          "train it without an adapter")  # fmt: skip
    return list(dict.fromkeys(linear.weight for linear in layers.values()))


def find_projectors(scorer: Scorer, config: TrainConfig) -> dict[Tensor, Tensor]:
    """The null space of each covered weight, from the weights as they are; none where the config asks for none.

    Raises:
        ConfigError: the method holds no language model, or no general text.
    """
    settings = config.subspace.null_space if config.subspace else None
    if settings is None:
        return {}
    if not (hasattr(scorer, "lm") and hasattr(scorer, "general")):
        raise ConfigError(f"training.subspace.null_space: {scorer.card.name} has no language model and general text "
                          "to take it from; set it to null")  # fmt: skip
    # Not above: it reads language models, and most trainings need none.
    from unisr.training.null_space import projectors

    layers = scorer.covered()
    found = projectors(scorer.lm, layers, scorer.general, settings)
    if lacking := sorted(set(layers) - set(found)):
        raise ConfigError(f"training.subspace.null_space: no projector for {', '.join(lacking)}")
    # Every process takes the main one's, to the last bit.
    return {linear.weight: broadcast(found[name].to(linear.weight.device)) for name, linear in layers.items()}


class TaskPasses:
    """Gives the optimizer the gradients of a window of batches, exact over accumulated batches and processes.

    A pass of a task goes over its rows of all batches, each batch's mean loss weighted by its share of all the task's
    rows, so that what `GEMS.take` gets is the gradient of the mean over those rows. The pass over all rows weighs the
    terms `rec` and `src`, which are means over their rows, by their counts; other terms are added.
    """

    def __init__(
        self, model: nn.Module, optimizer: GEMS, accelerator: Accelerator, *, clip_norm: float | None
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.accelerator, self.clip_norm = model, optimizer, accelerator, clip_norm
        settings = optimizer.settings
        self.passes = list(TASKS) if settings.task_subspaces else []
        if settings.passes == "three" or not settings.task_subspaces:
            self.passes.append(SHARED)

    def run(self, window: list[Batch], meter: Meter) -> Tensor:
        """Backward passes over `window`, whose gradients the optimizer takes; the shared one's norm before clipping."""
        window = [batch.to(self.accelerator.device) for batch in window]
        terms: list[dict[str, Tensor]] = [{} for _ in window]
        for name in self.passes:
            rows = [_rows(batch, name) for batch in window]
            count = self._over_processes(sum(map(len, rows)))
            if count:
                loss = self._pass(name, window, rows, count, terms)
                self.optimizer.take(name, count, loss=self._over_processes(loss))
        for batch, own in zip(window, terms, strict=True):
            meter.add(own, examples=len(batch))
        return self.optimizer.clip(self.clip_norm)

    def _pass(
        self, name: str, window: list[Batch], rows: list[Tensor], count: float, terms: list[dict[str, Tensor]]
    ) -> Tensor | float:
        """This process's share of the mean loss over `count` rows; the terms it saw are added to `terms`."""
        # A process without rows of the task still takes part in the reduction, with a loss of weight 0.
        chosen = [place for place, own in enumerate(rows) if len(own)] or [0]
        mean = 0.0
        for place in chosen:
            batch, own = window[place], rows[place]
            with nullcontext() if place == chosen[-1] else self.accelerator.no_sync(self.model):
                found = self.model(batch.select(own if len(own) else torch.zeros_like(batch.task[:1])))
                loss = _mean_over_rows(found, batch.select(own)) * (len(own) / count)
                # DDP averages over processes what is here a sum.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            if len(own):
                terms[place] = {**found, **terms[place]}
            mean = mean + loss.detach()
        return mean

    def _over_processes(self, value: Tensor | float) -> float | Tensor:
        """The sum over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        value = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(value, reduction="sum"))


def _rows(batch: Batch, name: str) -> Tensor:
    """Indices of a task's rows, or of all."""
    rows = torch.arange(len(batch), device=batch.task.device)
    return rows if name == SHARED else rows[batch.task == int(TASKS[name])]


def _mean_over_rows(terms: dict[str, Tensor], batch: Batch) -> Tensor:
    """The terms of a pass as one mean: those of tasks weighted by their rows, others added."""
    rows = {task: len(own) / len(batch) for task, own in batch.by_task()}
    return sum(term * rows.get(name, 0.0) if name in TASKS else term for name, term in terms.items())
