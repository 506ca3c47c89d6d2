"""The training loop of every method.

Reproducible: torch's generators are seeded for the training alone, loaders are pure functions of
(seed, epoch), and a checkpoint after each epoch holds the rest, so that a training which is killed and
resumed ends with the weights of an undisturbed one, bit for bit on CPU with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.utils.deterministic
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from tqdm import tqdm

from unisr.config import TrainConfig
from unisr.data.batches import Batch, SequenceBatch
from unisr.errors import ConfigError, UnisrError, out_of_memory
from unisr.models.base import Scorer
from unisr.progress import progress, tell_epochs
from unisr.random import seed_from
from unisr.training import checkpoint
from unisr.training.aggregation import Aggregation
from unisr.training.checkpoint import Checkpoint, Position
from unisr.training.gems import GEMS
from unisr.training.log import Meter, TrainLog, ids_of
from unisr.training.row_adam import RowAdamW, clip_norm, sparse_tables
from unisr.training.schedules import learning_rate
from unisr.training.task_passes import TaskPasses, covered_weights, find_projectors


class Loader(Protocol):
    """Batches of an epoch, a pure function of the epoch; `steps` batches each."""

    steps: int

    def epoch(self, epoch: int) -> Iterable[Batch | SequenceBatch]: ...


class Losses(nn.Module):
    """The scorer's losses as a `forward`: what accelerate casts and synchronises between processes."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer
        # DDP copies buffers between processes and cannot copy sparse ones; every process built the same.
        sparse = [name for name, buffer in scorer.named_buffers() if buffer.layout != torch.strided]
        self._ddp_params_and_buffers_to_ignore = [f"scorer.{name}" for name in sparse]

    def forward(self, batch: Batch | SequenceBatch) -> dict[str, Tensor]:
        return self.scorer.losses(batch)


def train(
    scorer: Scorer,
    loader: Loader,
    config: TrainConfig,
    *,
    seed: int,
    validate: Callable[[], dict[str, float]] | None = None,
    checkpoints: Path | None = None,
    owner: str = "",
    device: str = "cpu",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainLog:
    """Train in place, leave the best epoch's weights in the scorer and return the log.

    AdamW on the sum of the scorer's losses, or on what `config.aggregator` makes of the tasks' gradients; decay on
    tensors of two or more dimensions only. With `config.subspace` GEMS trains what the scorer covers, by the mean loss
    over all rows; its null space is that of the weights as they come, where a training is resumed too. Stops after
    `config.patience` epochs without a better mean of the validation metrics that end in `NDCG@5`; without `validate`
    all epochs are run and the last weights stay. A scorer without trainable parameters is left alone.

    Several processes (`accelerate launch`): process i of n takes batches i, i + n, … of each epoch, the last
    `steps mod n` batches are left out, gradients are averaged, and the main process alone validates and writes.
    A step is that of one process with n times the accumulation, and the log tells the means over all batches.

    Args:
        checkpoints: folder for the checkpoint of each epoch; a training found there is resumed.
        owner: what a checkpoint must say to be resumed (config id and code version).
        device: `cpu` or `cuda`.
        on_epoch: called with each finished epoch's log row.

    Raises:
        UnisrError: a loss or the gradient norm is not finite; names epoch, step, the terms, and users and items of the
            batch. Or memory does not suffice. The checkpoint of the epoch before stays.
        StoreError: the checkpoint found has another owner.
        ConfigError: a setting cannot work here.
    """
    if not scorer.trainable or config.epochs == 0:
        return TrainLog([])
    if config.schedule == "plateau" and validate is None:
        raise ConfigError("schedule 'plateau' watches validation; give validate, or use constant, linear or cosine")
    trainer = _Trainer(scorer, loader, config, device, seed)
    with _reproducible(trainer.accelerator, seed):
        if checkpoints and (saved := checkpoint.load(checkpoints, owner)):
            trainer.restore(saved)
        with progress(config.epochs * trainer.batches, scorer.card.name, show=trainer.main) as bar:
            bar.update(trainer.at.epoch * trainer.batches)
            while trainer.at.epoch < config.epochs and trainer.at.watch.stale < config.patience:
                with _memory(scorer, config, trainer.at):
                    row = trainer.epoch(bar, validate)
                if checkpoints:
                    trainer.save(checkpoints, owner)
                tell_epochs(scorer.card.name, trainer.at.rows)
                if on_epoch:
                    on_epoch(row)
    return trainer.finish()


class _Trainer:
    """Model, optimiser and position of one training."""

    def __init__(self, scorer: Scorer, loader: Loader, config: TrainConfig, device: str, seed: int) -> None:
        self.scorer, self.loader, self.config = scorer, loader, config
        self.accelerator = _accelerator(device, config.precision)
        self.main = self.accelerator.is_main_process
        self.batches = loader.steps // self.accelerator.num_processes
        if self.batches == 0:
            raise ConfigError(
                f"an epoch has {loader.steps} batches for {self.accelerator.num_processes} process(es); "
                f"lower training.batch_size (it is {config.batch_size}) or use more data"
            )
        processes = self.accelerator.num_processes
        optimizer = _optimizer(scorer, config, seed, processes)
        self.sparse = isinstance(optimizer, RowAdamW)
        self.aggregation = None if config.aggregator == "sum" else Aggregation(scorer, config, processes=processes)
        self.model, self.optimizer = self.accelerator.prepare(Losses(scorer), optimizer)
        self.passes = None
        if isinstance(optimizer, GEMS):
            optimizer.projectors = find_projectors(scorer, config)
            self.passes = TaskPasses(self.model, optimizer, self.accelerator, clip_norm=config.clip_norm)
        self.at = Position()
        self.best: dict[str, Tensor] | None = None

    def epoch(self, bar: tqdm, validate: Callable[[], dict[str, float]] | None) -> dict[str, float]:
        """Train one epoch, validate it and return its log row."""
        started = time.perf_counter()
        self.model.train()
        self.scorer.start_epoch(self.at.epoch, self.config.epochs)
        if self.aggregation:
            self.aggregation.start_epoch()
        number, first_step = self.at.epoch + 1, self.at.step
        meter = Meter(number, self._ids)
        for window in _windows(self._mine(), self.config.accumulation):
            self._step(window, meter)
            bar.update(len(window))
        meter.pool(gather_object)
        row = {"epoch": number, **meter.means(), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= {"steps": self.at.step - first_step, "examples": meter.examples}
        row["seconds"] = time.perf_counter() - started
        row["examples_per_second"] = row["examples"] / row["seconds"]
        if validate:
            row |= self._validate(number, validate)
        told = {"loss": f"{row['loss']:.4f}"} | ({"best NDCG@5": f"{self.at.watch.best:.4f}"} if validate else {})
        bar.set_postfix(told, refresh=False)
        self.at.epoch = number
        self.at.rows.append(row)
        return row

    def _mine(self) -> Iterator[Batch | SequenceBatch]:
        """This process's batches of the epoch."""
        count = self.accelerator.num_processes
        return islice(self.loader.epoch(self.at.epoch), self.accelerator.process_index, self.batches * count, count)

    def _ids(self, step: int) -> str:
        """Users and targets of batch `step` (from 1) of the epoch, which the loader makes again."""
        return ids_of(next(islice(self._mine(), step - 1, None)))

    def _step(self, window: list[Batch | SequenceBatch], meter: Meter) -> None:
        """One optimiser step on the mean loss of the batches in `window`."""
        steps = self.config.epochs * math.ceil(self.batches / self.config.accumulation)
        rate = learning_rate(self.config, self.at.step, steps=steps, cuts=self.at.watch.cuts)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        meter.add_norm(self.passes.run(window, meter) if self.passes else self._backward(window, meter))
        self.optimizer.step()
        # The fused step does not tell autograd that weights changed; scorers that cache tables look at this counter.
        increment_version(self.model.parameters())
        self.optimizer.zero_grad()
        self.at.step += 1

    def _backward(self, window: list[Batch | SequenceBatch], meter: Meter) -> Tensor:
        """Gradients of the mean loss of the batches, clipped; returns their norm before."""
        for place, batch in enumerate(window, 1):
            with nullcontext() if place == len(window) else self.accelerator.no_sync(self.model):
                losses = self.model(batch.to(self.accelerator.device))
                if self.aggregation:
                    self.aggregation.add(losses, share=1 / len(window))
                else:
                    self.accelerator.backward(sum(losses.values()) / len(window))
            meter.add(losses, examples=len(batch))
        if self.aggregation:
            self.aggregation.apply()
        most = self.config.clip_norm or math.inf
        if self.sparse:
            return clip_norm(self.model.parameters(), most)
        return self.accelerator.clip_grad_norm_(self.model.parameters(), most)

    def _validate(self, number: int, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
        started = time.perf_counter()
        self.model.eval()
        metrics = broadcast_object_list([validate() if self.main else None])[0]
        watched = [v for k, v in metrics.items() if k.endswith("NDCG@5")]
        if not watched:
            raise ConfigError(f"validate must return at least one metric ending in NDCG@5; it gave {sorted(metrics)}")
        if self.at.watch.see(number, sum(watched) / len(watched)):
            self.best = checkpoint.trained_state(self.scorer)
        named = {f"validation_{k}": v for k, v in metrics.items()}
        return {**named, "validation_seconds": time.perf_counter() - started}

    def save(self, folder: Path, owner: str) -> None:
        generators = gather_object([_generators(self.accelerator.device)])
        if self.main:
            weights = checkpoint.trained_state(self.scorer)
            state = Checkpoint(self.at, weights, self.best, self.optimizer.state_dict(), generators)
            checkpoint.save(folder, owner, state)
        self.accelerator.wait_for_everyone()

    def restore(self, saved: Checkpoint) -> None:
        self.at, self.best = saved.position, saved.best
        checkpoint.load_trained(self.scorer, saved.weights)
        self.optimizer.load_state_dict(saved.optimizer)
        # With another number of processes the batches differ too, so there is no state to go back to.
        if len(saved.generators) == self.accelerator.num_processes:
            _set_generators(saved.generators[self.accelerator.process_index])

    def finish(self) -> TrainLog:
        if self.best is not None:
            checkpoint.load_trained(self.scorer, self.best)
        self.scorer.eval()
        return TrainLog(self.at.rows, best_epoch=self.at.watch.best_epoch or self.at.epoch)


def _accelerator(device: str, precision: str) -> Accelerator:
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not one of cpu, cuda (choose a GPU with CUDA_VISIBLE_DEVICES)")
    # accelerate keeps one state per process and refuses a second device or precision; a notebook asks for both.
    if PartialState._shared_state and PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    # A batch of one task leaves the other task's parameters without gradient, which DDP must be told.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, kwargs_handlers=[unused])


def _optimizer(scorer: Scorer, config: TrainConfig, seed: int, processes: int) -> torch.optim.Optimizer:
    if config.sparse_rows and sparse_tables(scorer, config.sparse_rows):
        if config.subspace or config.aggregator != "sum" or processes > 1:
            raise ConfigError(
                f"a table has {config.sparse_rows} rows or more: training.sparse_rows works with AdamW on the sum of "
                "the losses in one process; set it to null"
            )
        return RowAdamW(_groups(scorer, config), lr=config.learning_rate, fused=True)
    if config.subspace is None:
        return torch.optim.AdamW(_groups(scorer, config), lr=config.learning_rate, fused=True)
    covered = covered_weights(scorer, config)
    own = {"params": covered, "weight_decay": config.weight_decay, "subspace": True}
    groups = [own, *_groups(scorer, config, without=set(covered))]
    return GEMS(groups, config.subspace, lr=config.learning_rate, seed=seed)


def _groups(scorer: Scorer, config: TrainConfig, *, without: Collection[Tensor] = ()) -> list[dict[str, Any]]:
    trained = [p for p in scorer.parameters() if p.requires_grad and p not in without]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _windows(batches: Iterable[Batch | SequenceBatch], size: int) -> Iterator[list[Batch | SequenceBatch]]:
    batches = iter(batches)
    while window := list(islice(batches, size)):
        yield window


@contextmanager
def _memory(scorer: Scorer, config: TrainConfig, at: Position) -> Iterator[None]:
    """Say what to do where memory does not suffice for a batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UnisrError(
            f"{scorer.card.name}: out of memory in epoch {at.epoch + 1}; lower training.batch_size (it is "
            f"{config.batch_size}) and raise training.accumulation by as much ({config.accumulation})"
        ) from error


@contextmanager
def _reproducible(accelerator: Accelerator, seed: int) -> Iterator[None]:
    """Own torch generators, and on CPU sums in one order whatever the number of threads does."""
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed_from(seed, "training", accelerator.process_index))
        try:
            if not cuda:
                torch.use_deterministic_algorithms(True, warn_only=True)
                torch.utils.deterministic.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(strict, warn_only=warn)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else {})


def _set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
