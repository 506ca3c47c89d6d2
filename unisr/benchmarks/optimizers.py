"""What a step of GEMS costs beside one of AdamW on the same two task gradients, in time and in optimizer state.

A causal LM of random weights (Llama blocks) gets a batch of prompts of each task. All optimizers take the same two
backward passes, one per task; AdamW and GaLore then use their sum. A step of GEMS or GaLore is a plain one plus its
share of a refresh of the bases, 1 / gap. Seconds are of process time on a CPU, of the clock on a GPU.

- gradients: both passes; step: the optimizer's part; ratio: gradients + step to those of AdamW. The optimizer's part
  alone is many times AdamW's, for its matrix products, but it does not grow with the batch.
- state: bytes kept for covered weights, of AdamW's 2 o i; checked against the formula (s + 2 l) Σ r_k. Gradient
  memory besides: AdamW and GaLore hold one copy of the covered gradients, GEMS two.

The rank is s/8 of the narrowest side all covered weights have but attention's keys and values (the model's width).

    unisr bench optimizers [--shape testbed|smollm2] [--layers 2] [--rows 4] [--tokens 64] [--gap 50] [--steps 4]
                           [--device cpu|cuda] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from unisr.config import NullSpaceConfig, SubspaceConfig
from unisr.data.schema import TASKS
from unisr.random import torch_generator
from unisr.training.bases import state_numbers
from unisr.training.gems import GEMS
from unisr.training.task_gradients import SHARED

WORDS = 4096
SHAPES = {
    "testbed": dict(hidden_size=128, intermediate_size=344, num_attention_heads=4, num_key_value_heads=4),
    "smollm2": dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3),
}
"""testbed: that of the small preset; smollm2: SmolLM2-135M, which has 30 layers."""
NEVER = 10**9


@dataclass(frozen=True)
class World:
    """A model, its covered weights, and token batches [rows, tokens] of each task."""

    model: LlamaForCausalLM
    covered: list[Tensor]
    batches: dict[str, Tensor]

    def backward(self, task: str) -> None:
        """Gradients of the mean loss of a task's last tokens."""
        tokens = self.batches[task]
        states = self.model.model(input_ids=tokens[:, :-1]).last_hidden_state[:, -1]
        torch.nn.functional.cross_entropy(self.model.lm_head(states), tokens[:, -1]).backward()


def main() -> None:
    """Print one row per optimizer: seconds, ratio to AdamW, bytes of state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    for name, default in {"layers": 2, "rows": 4, "tokens": 64, "gap": 50, "steps": 4, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    world = build(given.shape, layers=given.layers, rows=given.rows, tokens=given.tokens, device=given.device)
    rows = measure(world, gap=given.gap, steps=given.steps)
    head = ("optimizer", "gradients", "step", "plain", "refresh", "ratio", "state MB", "share")
    print("{:24} {:>9} {:>8} {:>8} {:>8} {:>6} {:>9} {:>6}".format(*head))
    for row in rows:
        print(
            f"{row['optimizer']:24} {row['gradients']:9.3f} {row['step']:8.3f} {row['plain']:8.3f}"
            f" {row['refresh']:8.3f} {row['ratio']:6.2f} {row['bytes'] / 1e6:9.2f} {row['share']:6.2f}"
        )
    print(
        f"shape {given.shape}, {given.layers} layers, rank {rank_of(world)}, gap {given.gap}, {given.rows} rows of "
        f"{given.tokens} tokens a task, {given.device}, {given.threads} thread(s); seconds"
    )


def measure(world: World, *, gap: int, steps: int) -> list[dict[str, float | str]]:
    """One row per optimizer; `step` = plain + (refresh - plain) / gap, `ratio` and `share` to AdamW.

    Raises:
        AssertionError: the state of covered weights has not the bytes of the formula.
    """
    rank = rank_of(world)
    variants = {
        "GaLore, svd": SubspaceConfig(rank=rank, task_subspaces=False),
        "GEMS, svd": SubspaceConfig(rank=rank),
        "GEMS, randomized": SubspaceConfig(rank=rank, basis="randomized"),
        "GEMS, random": SubspaceConfig(rank=rank, basis="random"),
        "GEMS, bf16": SubspaceConfig(rank=rank, basis="randomized", state="bf16"),
        "GEMS, null space": SubspaceConfig(rank=rank, basis="randomized", null_space=NullSpaceConfig()),
    }
    clock = Clock(world.covered[0].device)
    gradients = clock.seconds(lambda: [world.backward(task) for task in TASKS], steps)
    plain, size = adamw(world, clock, steps)
    rows = [{"optimizer": "AdamW", "step": plain, "plain": plain, "refresh": 0.0, "bytes": size}]
    for name, settings in variants.items():
        plain, _ = gems(world, clock, settings.model_copy(update={"gap": NEVER}), steps)
        refresh, size = gems(world, clock, settings.model_copy(update={"gap": 1}), 1)
        step = plain + (refresh - plain) / gap
        rows.append({"optimizer": name, "step": step, "plain": plain, "refresh": refresh, "bytes": size})
    for row in rows:
        ratio = (gradients + row["step"]) / (gradients + rows[0]["step"])
        row |= {"gradients": gradients, "ratio": ratio, "share": row["bytes"] / rows[0]["bytes"]}
    return rows


class Clock:
    """Seconds of process time on a CPU, where other work on the machine does not count, else of the clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def seconds(self, what: Callable[[], object], times: int, *, before: Callable[[], object] | None = None) -> float:
        """Of one call, the mean over `times` after a warm-up; `before` comes before each and is not timed."""
        spent = 0.0
        for number in range(times + 1):
            if before:
                before()
            start = self._now()
            what()
            spent += (self._now() - start) * (number > 0)
        return spent / times

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter() if self.cuda else time.process_time()


def adamw(world: World, clock: Clock, steps: int) -> tuple[float, int]:
    """Seconds of torch's fused step over the covered weights, and bytes of its state."""
    optimizer = torch.optim.AdamW(world.covered, lr=1e-6, fused=True)

    def prepare() -> None:
        world.model.zero_grad()
        for task in TASKS:
            world.backward(task)

    seconds = clock.seconds(optimizer.step, steps, before=prepare)
    return seconds, tensor_bytes(optimizer.state[p][k] for p in world.covered for k in ("exp_avg", "exp_avg_sq"))


def gems(world: World, clock: Clock, settings: SubspaceConfig, steps: int) -> tuple[float, int]:
    """Seconds of a step over the covered weights, `take` included, and bytes of its state."""
    optimizer = GEMS([{"params": world.covered, "subspace": True}], settings, lr=1e-6)
    if settings.null_space:
        optimizer.projectors = {p: _projector(p) for p in world.covered}
    tasks = list(TASKS) if settings.task_subspaces else [SHARED]
    held: dict[str, list[Tensor]] = {}

    def prepare() -> None:
        for task in tasks:
            world.model.zero_grad()
            for source in TASKS if task == SHARED else [task]:
                world.backward(source)
            held[task] = [p.grad for p in world.covered]

    def step() -> None:
        for task in tasks:
            for p, gradient in zip(world.covered, held[task], strict=True):
                p.grad = gradient
            optimizer.take(task, 1)
        optimizer.step()

    seconds = clock.seconds(step, steps, before=prepare)
    spaces = [space for p in world.covered for space in optimizer.state[p].values() if isinstance(space, dict)]
    size = tensor_bytes(space[k] for space in spaces for k in ("basis", "m", "v"))
    expected = sum(state_numbers(p, settings) for p in world.covered) * (2 if settings.state == "bf16" else 4)
    assert size == expected, f"{size} bytes of state, {expected} by the formula"
    return seconds, size


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors' memory takes, whatever part of it they show."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def rank_of(world: World) -> int:
    """s/8 for weights of the model's width."""
    return world.model.config.hidden_size // 8


def build(shape: str, *, layers: int, rows: int, tokens: int, device: str = "cpu") -> World:
    """Random weights and tokens; the same on every call."""
    config = LlamaConfig(vocab_size=WORDS, num_hidden_layers=layers, tie_word_embeddings=True, **SHAPES[shape])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(device)
    covered = [part.weight for part in model.model.modules() if isinstance(part, torch.nn.Linear)]
    random = torch_generator(0, "optimizers")
    batches = {task: torch.randint(WORDS, (rows, tokens + 1), generator=random).to(device) for task in TASKS}
    return World(model, covered, batches)


def _projector(weight: Tensor) -> Tensor:
    """On a random half of the inputs."""
    width = weight.shape[1]
    noise = torch.randn(width, width // 2, generator=torch_generator(0, "projector", width))
    basis = torch.linalg.qr(noise).Q.to(weight.device)
    return basis @ basis.T


if __name__ == "__main__":
    main()
