"""GEMS: Adam in low-rank subspaces of the gradients of both tasks (Zhao et al., SIGIR 2026, arXiv 2601.09496).

A covered weight W [o, i] has three gradients of mean losses: g_rec, g_src, and the shared one of all rows,

    g_shared = (n_rec g_rec + n_src g_src) / (n_rec + n_src),    n: rows of the task

or that of a third pass. Write s = min(o, i), l = max(o, i), and G [l, s] for a gradient, transposed where o < i. Each
space k has a basis B_k [s, r_k] of orthonormal columns, the top right singular vectors of G_k at every `gap`-th step;
r_shared = min(r, s), r_rec = r_src = max(1, r // 2). With moments m, v [l, r_k]:

    c = G_k B_k;   m <- β1 m + (1 - β1) c;   v <- β2 v + (1 - β2) c²
    n_k = sqrt(1 - β2^t) / (1 - β1^t) · m / (sqrt(v) + ε)
    Δ = α (n_shared B_shared^T + w_rec n_rec B_rec^T + w_src n_src B_src^T)
    U = lr Δ + lr λ (W - lr Δ);   W <- W - U,   or W - U P with a null space on the input side

All other parameters get AdamW on g_shared. With the shared space alone and no null space this is GaLore (Zhao et al.,
ICML 2024, type "std"; square weights are projected on the right). Optimizer state of a weight: (s + 2 l) Σ r_k numbers,
2 s l in AdamW.

Null space, input side: P [i, i] projects on inputs that general text hardly uses. It is the last factor of the whole
update, decay included, so that W x stays as it was, to rounding, for every x with P x = 0. Bases and compact gradients
are those of g P as well, so that rank and moments are spent where the weight may go; the constraint does not need it.
Output side, the released form: P [o, o] on each gradient, before basis and Adam, and not on decay. Where o >= i Adam
mixes the rows again, and a share of the update leaves the space.

Departures from the released code: accumulated batches are weighted by rows, not by batches; a space whose task is
absent from a step goes on by its momentum, and if its refresh is due it waits for a gradient; a space has its own step
count t, so that `reset` moments are corrected as at the start; with the first refresh at step 1 the others come at
1 + gap, 1 + 2 gap, … as in galore-torch (released: the first interval is one step shorter); the learned gate of task
weights, which never trains there, is left out; gradients may be clipped. Kept from it: with moments="keep" they stay
in the coordinates of the basis before, although the order and the signs of singular vectors are arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from unisr.config import SubspaceConfig
from unisr.data.schema import TASKS
from unisr.errors import UnisrError
from unisr.random import torch_generator
from unisr.training.bases import computed, conflict_weights, directions, noise, right, rounded, tall
from unisr.training.task_gradients import SHARED, TaskGradients

EPSILON = 1e-6
"""ε of covered weights, that of GaLore and the released code; other parameters have AdamW's 1e-8."""


class GEMS(torch.optim.Optimizer):
    """Subspace Adam for the groups with `subspace=True`, AdamW for the others; see the module's head.

    A step is one backward pass per task, each followed by `take`, and then `step`:

        for task, rows in batch.by_task():
            loss(batch.select(rows)).backward()      # the mean over the task's rows
            optimizer.take(task, len(rows))
        optimizer.step()

    With passes="three" the mean over all rows is taken last, as `shared`. With `task_subspaces=False` `shared` alone
    is enough. `projectors` holds P by weight, to be set before the first step.

    Args:
        groups: parameter groups with plain values only; `subspace` says whether GEMS covers the group.
        seed: of random bases, of the randomized SVD and of rounding to bf16; the same in all processes.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], settings: SubspaceConfig, *, lr: float,
        betas: tuple[float, float] = (0.9, 0.999), seed: int = 0,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "weight_decay": 0.0, "subspace": False, "fused": True}
        super().__init__(groups, defaults)
        self.settings, self.seed = settings, seed
        self.projectors: Mapping[Tensor, Tensor] = {}
        covered = (p for group in self.param_groups if group["subspace"] for p in group["params"])
        self._number = {weight: place for place, weight in enumerate(covered)}
        self._gradients = TaskGradients(settings, self._number)

    @torch.no_grad()
    def take(self, task: str, count: float, *, loss: float | Tensor = 0.0) -> None:
        """Move all `.grad`, those of the mean loss over `count` rows of `task`, out of the parameters.

        Args:
            task: `rec`, `src`, or `shared` for all rows.
            loss: the mean loss; read with task_weights="shares" only.

        Raises:
            ValueError: the task was taken since the last step, or has no rows.
        """
        self._gradients.take(self._parameters(), task, count, loss)

    @torch.no_grad()
    def clip(self, limit: float | None) -> Tensor:
        """The norm of the shared gradient; all gradients taken are multiplied by min(1, limit / norm)."""
        shared = (self._gradients.shared(p) for p in self._parameters())
        norm = torch.stack([g.norm() for g in shared if g is not None]).norm()
        if limit is not None:
            self._gradients.scale((limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters from what was taken, and forget it.

        Raises:
            UnisrError: a basis is due and the gradient is not finite.
        """
        shares = self._gradients.shares()
        for group in self.param_groups:
            if not group["subspace"]:
                self._adamw(group)
                continue
            for weight in group["params"]:
                gradients = self._gradients.of(weight)
                if SHARED in gradients:
                    weight.sub_(self._update(weight, gradients, group, shares))
        self._gradients = TaskGradients(self.settings, self._number)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer; torch casts to the parameters' type, so moments and bases are cast back."""
        super().load_state_dict(state_dict)
        for weight in self._number:
            for space in self.state[weight].values() if weight in self.state else ():
                if isinstance(space, dict):
                    kept = self._kept(weight)
                    space.update({k: v.to(kept) for k, v in space.items() if isinstance(v, Tensor)})

    def _parameters(self) -> Iterable[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    @property
    def _side(self) -> str | None:
        return self.settings.null_space.side if self.settings.null_space else None

    def _adamw(self, group: dict[str, Any]) -> None:
        """torch's AdamW on the shared gradients of a group."""
        found = {p: g for p in group["params"] if (g := self._gradients.shared(p)) is not None}
        for p in found:
            if p not in self.state:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **moments}
        first, second, steps = ([self.state[p][k] for p in found] for k in ("exp_avg", "exp_avg_sq", "step"))
        if found:
            adamw(
                list(found), list(found.values()), first, second, [], steps, fused=True, amsgrad=False,
                beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
                eps=1e-8, maximize=False,
            )  # fmt: skip

    def _update(
        self, weight: Tensor, gradients: dict[str, Tensor], group: dict[str, Any], shares: dict[str, float]
    ) -> Tensor:
        """U [o, i], or U P."""
        state, settings = self.state[weight], self.settings
        if self._side == "output":
            gradients = {name: self.projectors[weight] @ gradient for name, gradient in gradients.items()}
        if not state:
            state.update({"age": 0, SHARED: {"due": True}})
            state.update({task: {"due": True} for task in TASKS if settings.task_subspaces})
        spaces = {name: space for name, space in state.items() if name != "age"}
        if state["age"] % settings.gap == 0:
            for space in spaces.values():
                space["due"] = True
        state["age"] += 1
        moved = {}
        for name, space in spaces.items():
            if space["due"] and name in gradients:
                self._refresh(weight, name, gradients[name])
            if not space["due"]:
                moved[name] = (self._adam(weight, name, gradients.get(name), group["betas"]), space["basis"])
        weights = {SHARED: 1.0, **shares}
        if settings.task_weights == "conflict":
            weights |= conflict_weights(*(moved.get(task) for task in TASKS))
        return self._mapped(weight, [(n * weights[name], basis) for name, (n, basis) in moved.items()], group)

    def _mapped(self, weight: Tensor, parts: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> Tensor:
        """U [o, i] of the weighted n_k [l, r_k] and their bases [s, r_k], or U P."""
        steps = torch.cat([n for n, _ in parts], dim=1)
        bases = torch.cat([basis for _, basis in parts], dim=1).to(steps.dtype)
        null = self.projectors[weight] if self._side == "input" else None
        if null is not None:
            # Δ P costs least on the factor that has the inputs.
            bases, steps = (null @ bases, steps) if right(weight) else (bases, null @ steps)
        update = tall(steps @ bases.T * (self.settings.scale * group["lr"]), weight)
        if group["weight_decay"]:
            decay = (weight - update) * (group["lr"] * group["weight_decay"])
            update = update + (decay if null is None else decay @ null)
        return update

    def _adam(self, weight: Tensor, name: str, gradient: Tensor | None, betas: tuple[float, float]) -> Tensor:
        """n [l, r] of one space; without gradient the moments decay."""
        space = self.state[weight][name]
        first, second = (space[k].to(computed(weight)) for k in ("m", "v"))
        compact = torch.zeros_like(first) if gradient is None else self._compact(weight, gradient, space["basis"])
        space["step"] += 1
        first = first.lerp(compact, 1 - betas[0])
        second = (second * betas[1]).addcmul_(compact, compact, value=1 - betas[1])
        space["m"].copy_(first)
        if space["v"].dtype == torch.bfloat16:
            space["v"] = rounded(second, self._random("rounding", weight, name))
        else:
            space["v"].copy_(second)
        t = space["step"]
        return first / (second.sqrt() + EPSILON) * ((1 - betas[1] ** t) ** 0.5 / (1 - betas[0] ** t))

    def _compact(self, weight: Tensor, gradient: Tensor, basis: Tensor) -> Tensor:
        compact = tall(gradient, weight).to(computed(weight)) @ basis.to(computed(weight))
        # On the right side the basis itself lies in the null space.
        return self.projectors[weight] @ compact if self._side == "input" and not right(weight) else compact

    def _refresh(self, weight: Tensor, name: str, gradient: Tensor) -> None:
        """A new basis of a space from its gradient [o, i], and what becomes of the moments."""
        space, settings = self.state[weight][name], self.settings
        if not gradient.isfinite().all():
            raise UnisrError(f"training diverged: the gradient of a weight {tuple(weight.shape)} is not finite; lower "
                             "training.learning_rate, or set training.clip_norm and training.warmup_steps")  # fmt: skip
        rank = settings.rank if name == SHARED else max(1, settings.rank // 2)
        random = self._random("basis", weight, name)
        source = tall(gradient, weight).to(computed(weight))
        if settings.basis == "random":
            source = noise((min(rank, source.shape[1]), source.shape[1]), source, random)
        if self._side == "input" and right(weight):
            source = source @ self.projectors[weight]
        elif self._side == "input" and settings.basis != "random":
            source = self.projectors[weight] @ source
        rest = None
        if settings.orthogonal and name != SHARED:
            shared = self.state[weight][SHARED]["basis"].to(source.dtype)
            rest = torch.linalg.qr(shared, mode="complete").Q[:, shared.shape[1] :]
            source = source @ rest
        basis = directions(source, min(rank, source.shape[1]), settings.basis, random, left=not right(weight))
        basis = basis if rest is None else rest @ basis
        if self._side == "input" and right(weight):
            # Columns beyond the rank of g P are arbitrary and must not take part.
            basis = self.projectors[weight] @ basis
        self._carry(weight, space, basis)

    def _carry(self, weight: Tensor, space: dict[str, Any], basis: Tensor) -> None:
        """Put a new basis into a space, and its moments through `settings.moments`."""
        kept = self._kept(weight)
        if "basis" not in space or self.settings.moments == "reset":
            zeros = basis.new_zeros(max(weight.shape), basis.shape[1], dtype=kept)
            space.update({"step": 0, "m": zeros, "v": zeros.clone()})
        elif self.settings.moments == "rotate":
            turn = space["basis"].to(basis.dtype).T @ basis
            space["m"] = (space["m"].to(basis.dtype) @ turn).to(kept)
            space["v"] = (space["v"].to(basis.dtype) @ turn.square()).to(kept)
        # A copy, for a view would hold the whole decomposition.
        space.update({"basis": basis.to(kept, copy=True, memory_format=torch.contiguous_format), "due": False})

    def _random(self, use: str, weight: Tensor, name: str) -> torch.Generator:
        """Numbers for one use in one step, so that no state of a generator is to be kept."""
        return torch_generator(self.seed, use, self._number[weight], name, self.state[weight]["age"])

    def _kept(self, weight: Tensor) -> torch.dtype:
        return torch.bfloat16 if self.settings.state == "bf16" else computed(weight)
