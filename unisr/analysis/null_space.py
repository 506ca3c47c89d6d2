"""What trained weights changed inside and outside of the null space of general text (`unisr.training.null_space`)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from unisr.config import NullSpaceConfig, SubspaceConfig
from unisr.errors import ConfigError
from unisr.random import torch_generator
from unisr.training.gems import GEMS


def leakage(before: Tensor, after: Tensor, projector: Tensor, *, side: str = "input") -> float:
    """Share of a weight's change that the projector P forbids: ||ΔW (I - P)|| / ||ΔW||, Frobenius, in fp64.

    For `side="output"` ||(I - P) ΔW|| / ||ΔW||. NaN where nothing changed.

    Args:
        before, after: [o, i]; projector: [i, i], or [o, o] for outputs.

    Raises:
        ConfigError: the projector is not of this side.
    """
    change = after.double() - before.double()
    size = change.shape[1 if side == "input" else 0]
    if projector.shape != (size, size):
        raise ConfigError(f"null space: projector {list(projector.shape)} is not of the {side} side of a weight "
                          f"{list(change.shape)}; it must be [{size}, {size}]")  # fmt: skip
    kept = change @ projector.double() if side == "input" else projector.double() @ change
    return _ratio((change - kept).norm(), change.norm())


def weighted_layers(lm: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of the model's blocks by name, with peft's adapters where it has them; without the head."""
    head = lm.get_output_embeddings()
    adapted = {name: part for name, part in lm.named_modules() if hasattr(part, "base_layer")}
    inside = tuple(f"{name}." for name in adapted)
    plain = {name: part for name, part in lm.named_modules()
             if isinstance(part, nn.Linear) and part is not head and not name.startswith(inside)}  # fmt: skip
    return {**plain, **adapted}


@torch.no_grad()
def weight(layer: nn.Module) -> Tensor:
    """[o, i] the matrix that a linear layer applies, with peft's adapters that act on it."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()
    base = layer.base_layer.weight
    ones = torch.eye(base.shape[1], device=base.device, dtype=base.dtype)
    return (layer(ones) - layer(torch.zeros_like(ones[:1]))).T


def layer_changes(
    before: nn.Module, after: nn.Module, projectors: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> pd.DataFrame:
    """How far each covered layer's outputs moved on text, through protected and through free directions.

    With C = E[x x^T] the root mean square of A x over text is sqrt(tr(A C A^T)); all outputs are relative to that of
    the weights before, W x.

    Args:
        before, after: the language model with pretrained and with trained weights (adapters in place).
        projectors: P [i, i] of each layer by name; moments: C [i, i] of the same layers' inputs before, over text that
            the projectors have not seen.

    Returns:
        per layer: layer, width (i), null (directions of the null space), null_energy (share of tr C in it: how well it
        holds on other text), weights (||ΔW|| / ||W||), leakage (see `leakage`), protected (ΔW (I - P) x; 0 where the
        null space was kept exactly), free (ΔW P x) and moved (ΔW x).
    """
    rows = []
    for name, small in projectors.items():
        old, new = (weight(lm.get_submodule(name)).double() for lm in (before, after))
        p, c, change = small.double(), moments[name].double(), new - old
        scale = _rms(old, c)
        rows.append({
            "layer": name, "width": len(p), "null": round(float(p.trace())),
            "null_energy": float((p @ c).trace() / c.trace()),
            "weights": _ratio(change.norm(), old.norm()),
            "leakage": leakage(old, new, small),
            "protected": _ratio(_rms(change - change @ p, c), scale),
            "free": _ratio(_rms(change @ p, c), scale),
            "moved": _ratio(_rms(change, c), scale),
        })  # fmt: skip
    return pd.DataFrame(rows)


def simulated_leakage(
    shape: tuple[int, int], *, rank: int, null: int, side: str, steps: int = 20, seed: int = 0
) -> float:
    """`leakage` of one weight after GEMS' steps on random gradients, each of rank 8 and noise of a tenth of its size.

    One shared subspace, a basis kept for all steps, no decay; the null space has random directions.

    Args:
        shape: [o, i]; null: dimensions of the null space, of i (`input`) or o (`output`, the released form).
    """
    random = torch_generator(seed, "simulated leakage", *shape, rank, null)

    def noise(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=random, dtype=torch.float64)

    free = torch.linalg.qr(noise(shape[1 if side == "input" else 0], null)).Q
    start, low = noise(*shape), (noise(shape[0], 8), noise(8, shape[1]))
    settings = SubspaceConfig(rank=rank, gap=steps, task_subspaces=False, null_space=NullSpaceConfig(side=side))
    weight_ = nn.Parameter(start.clone())
    optimizer = GEMS([{"params": [weight_], "subspace": True}], settings, lr=1e-3, seed=seed)
    optimizer.projectors = {weight_: free @ free.T}
    for _ in range(steps):
        weight_.grad = low[0] @ torch.diag(noise(8)) @ low[1] + 0.1 * 8**0.5 * noise(*shape)
        optimizer.take("shared", 1)
        optimizer.step()
    return leakage(start, weight_.data, free @ free.T, side=side)


def _rms(matrix: Tensor, moment: Tensor) -> Tensor:
    return ((matrix @ moment) * matrix).sum().clamp(min=0).sqrt()


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else float("nan")
