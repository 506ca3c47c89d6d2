"""Directions that general text hardly uses, so that a weight may change along them and general text does not notice.

For a layer y = W x, C = E[x x^T] is the second moment of its inputs over tokens of general text, not centered, and
C = U diag(s) U^T. The null space is spanned by the eigenvectors U_0 of the smallest eigenvalues, P = U_0 U_0^T. An
update ΔW P changes nothing on inputs outside the null space: ΔW P x = 0 for P x = 0 (Adam-NSCL, AlphaEdit).

The released GEMS takes y in place of x and projects from the left, P ΔW. That bounds where outputs may move, not on
which inputs they do.

Departures: the released code knows an absolute bound on an eigenvalue alone, which depends on the scale of the
features; `NullSpaceConfig.energy` bounds the null space's share of the trace. Moments are taken on the pretrained
model; the released code takes them on random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from unisr.config import NullSpaceConfig
from unisr.errors import ConfigError
from unisr.models.causal_lm import read
from unisr.models.modes import evaluating

LEAST = 0.05
"""Share of the directions, the lowest, that are the null space where no eigenvalue is under the bound (released)."""
TOKENS_AT_ONCE = 1024


def projectors(
    lm: nn.Module, layers: Mapping[str, nn.Module], blocks: Tensor, settings: NullSpaceConfig
) -> dict[str, Tensor]:
    """P of each layer's null space, fp32 on the layer's device: [i, i] for side `input`, [o, o] for `output`.

    Args:
        lm: a language model that takes `input_ids`; read in evaluation mode, left as it was.
        layers: linear parts of `lm`. Those that get the same tensor (queries, keys and values) share one P.
        blocks: [N, T] int64 tokens of general text without padding; the first `settings.tokens` are read, rounded up
            to whole rows, or all where there are fewer.

    Raises:
        ConfigError: there is no text, or a layer is not reached by it.
    """
    found: dict[int, Tensor] = {}
    result = {}
    for name, moment in moments(lm, layers, blocks, side=settings.side, tokens=settings.tokens).items():
        if id(moment) not in found:
            found[id(moment)] = projector(moment, settings)
        result[name] = found[id(moment)]
    return result


def projector(moment: Tensor, settings: NullSpaceConfig) -> Tensor:
    """P = U_0 U_0^T, [d, d] fp32, of a second moment [d, d].

    U_0: the eigenvectors of the most lowest eigenvalues that hold at most `settings.energy` of the trace together, or
    of all eigenvalues below `settings.threshold`; the lowest 5 % (at least one) where these are none.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp(min=0)
    if settings.threshold is not None:
        count = int((values < settings.threshold).sum())
    else:
        count = int((values.cumsum(0) <= settings.energy * values.sum()).sum())
    null = vectors[:, : count or max(1, int(LEAST * len(values)))]
    return (null @ null.T).float()


@torch.no_grad()
def moments(
    lm: nn.Module, layers: Mapping[str, nn.Module], blocks: Tensor, *, side: str, tokens: int | None = None
) -> dict[str, Tensor]:
    """Means over tokens of x x^T for the layers' inputs (or outputs), fp32; layers with one input share one tensor.

    Arguments and errors as of `projectors`; `tokens` None takes all.
    """
    rows = len(blocks) if tokens is None else min(len(blocks), -(-tokens // max(1, blocks.shape[1])))
    if not rows or not blocks.shape[1]:
        raise ConfigError("null space: there is no general text; give blocks [N, T] of at least one token")
    watch = _Moments(side)
    with ExitStack() as stack:
        stack.enter_context(evaluating(lm))
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(watch.hook(name)).remove)
        device = next(lm.parameters()).device
        for part in blocks[:rows].split(max(1, TOKENS_AT_ONCE // blocks.shape[1])):
            watch.last = None
            read(lm, part.to(device))
    if lacking := [name for name in layers if name not in watch.source]:
        raise ConfigError(f"null space: the language model never calls {', '.join(lacking)}; cover other layers")
    means = {name: total / (rows * blocks.shape[1]) for name, total in watch.totals.items()}
    return {name: means[watch.source[name]] for name in layers}


class _Moments:
    """Sums of x x^T; a layer whose tensor is the one just seen stands for that layer."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.totals: dict[str, Tensor] = {}
        self.source: dict[str, str] = {}
        self.last: tuple[Tensor, str] | None = None

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = args[0] if self.side == "input" else output
            if self.last is None or self.last[0] is not x:
                self.last = (x, name)
                flat = x.flatten(0, -2).float()
                moment = flat.T @ flat
                self.totals[name] = self.totals[name] + moment if name in self.totals else moment
            self.source[name] = self.last[1]

        return see
