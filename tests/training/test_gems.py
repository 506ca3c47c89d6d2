"""The GEMS optimizer against plain loops, closed forms and torch.optim."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor, nn

from unisr.config import NullSpaceConfig, SubspaceConfig
from unisr.errors import UnisrError
from unisr.random import torch_generator
from unisr.training.bases import conflict_weights, directions, rounded
from unisr.training.gems import GEMS

SHAPES = [(12, 12), (16, 10), (10, 16)]
BASES = ("svd", "randomized", "random")


def noise(*key: object, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, *map(str, key)), dtype=torch.float64)


def optimizer(
    weight: Tensor, *, decay: float = 0.0, null: Tensor | None = None, side: str = "input", others: tuple = (), **given
) -> tuple[nn.Parameter, GEMS]:
    """GEMS over one weight; `null` is its projector."""
    parameter = nn.Parameter(weight.clone())
    if null is not None:
        given["null_space"] = NullSpaceConfig(side=side)
    groups = [{"params": [parameter], "subspace": True, "weight_decay": decay}, *others]
    gems = GEMS(groups, SubspaceConfig(**given), lr=0.01)
    gems.projectors = {} if null is None else {parameter: null}
    return parameter, gems


def run(parameter: nn.Parameter, gems: GEMS, steps: range, *, counts: dict[str, int] | None = None) -> None:
    """Steps with random gradients that are a function of the step and the task."""
    for step in steps:
        for task, count in (counts or {"rec": 3, "src": 1}).items():
            parameter.grad = gradient(parameter, task, step)
            gems.take(task, count)
        gems.step()


def gradient(weight: Tensor, task: str, step: int) -> Tensor:
    return noise("gradient", task, step, shape=tuple(weight.shape)).to(weight.dtype)


def galore(weight: Tensor, gradients: list[Tensor], *, rank: int, gap: int, scale: float, decay: float = 0) -> Tensor:
    """GaLore by the book, one entry of Adam at a time from the power series of its means."""
    history: list[Tensor] = []
    for step, g in enumerate(gradients):
        o, i = g.shape
        if step % gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            basis = vh[:rank].T if o >= i else u[:, :rank]
        history.append(g @ basis if o >= i else basis.T @ g)
        ages = range(len(history) - 1, -1, -1)
        m = sum(0.1 * 0.9**age * c for age, c in zip(ages, history, strict=True)) / (1 - 0.9 ** len(history))
        v = sum(0.001 * 0.999**age * c**2 for age, c in zip(ages, history, strict=True))
        n = m / (v.sqrt() + 1e-6) * math.sqrt(1 - 0.999 ** len(history))
        weight = weight - 0.01 * scale * (n @ basis.T if o >= i else basis @ n)
        weight = weight - 0.01 * decay * weight
    return weight


@pytest.mark.parametrize("shape", SHAPES)
def test_one_space_is_galore(shape: tuple[int, int]) -> None:
    """Over three refreshes. Equal to galore-torch 1.0 too, to fp32 rounding, on square, tall and wide weights."""
    start = noise("w", shape=shape)
    parameter, gems = optimizer(start, decay=0.1, rank=4, gap=3, scale=0.25, task_subspaces=False)
    run(parameter, gems, range(11), counts={"shared": 1})
    gradients = [gradient(start, "shared", step) for step in range(11)]
    torch.testing.assert_close(parameter.data, galore(start, gradients, rank=4, gap=3, scale=0.25, decay=0.1))


@pytest.mark.parametrize("shape", SHAPES)
def test_gems_is_the_sum_of_three_galores(shape: tuple[int, int]) -> None:
    start = noise("w", shape=shape)
    parameter, gems = optimizer(start, rank=5, gap=4)
    run(parameter, gems, range(9))
    rec, src = ([gradient(start, task, step) for step in range(9)] for task in ("rec", "src"))
    shared = [(3 * a + b) / 4 for a, b in zip(rec, src, strict=True)]
    parts = [galore(start, g, rank=r, gap=4, scale=1.0) - start for g, r in ((shared, 5), (rec, 2), (src, 2))]
    torch.testing.assert_close(parameter.data, start + sum(parts))


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_is_adam_in_the_rotated_basis(shape: tuple[int, int]) -> None:
    start = noise("w", shape=shape)
    parameter, gems = optimizer(start, rank=99, gap=1000, task_subspaces=False)
    first = gradient(start, "shared", 0)
    right = shape[0] >= shape[1]
    u, _, vh = torch.linalg.svd(first, full_matrices=False)
    rotated = nn.Parameter(start @ vh.T if right else u.T @ start)
    adam = torch.optim.Adam([rotated], lr=0.01, eps=1e-9)
    for step in range(6):
        g = gradient(start, "shared", step)
        rotated.grad = g @ vh.T if right else u.T @ g
        adam.step()
    run(parameter, gems, range(6), counts={"shared": 1})
    back = rotated.data @ vh if right else u @ rotated.data
    torch.testing.assert_close(parameter.data, back, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("passes", ["counted", "three"])
def test_the_shared_gradient_is_that_of_all_rows(passes: str) -> None:
    """And what is not covered gets AdamW on it, bit for bit that of torch."""
    x, y, task = noise("x", shape=(10, 6)), noise("y", shape=(10, 4)), torch.arange(10) < 7
    model = nn.Linear(6, 4).double()
    bias, copied = nn.Parameter(model.bias.data.clone()), nn.Parameter(model.weight.data.clone())
    own = [{"params": [model.weight], "subspace": True}, {"params": [model.bias], "weight_decay": 0.1}]
    gems = GEMS(own, SubspaceConfig(rank=9, passes=passes, task_subspaces=False), lr=0.01)
    adamw = torch.optim.AdamW([bias, copied], lr=0.01, weight_decay=0.1, fused=True)
    for _ in range(4):
        (x @ copied.T.detach() + bias - y).square().mean().backward()
        with torch.no_grad():
            model.weight.copy_(copied)
        rows = {"rec": task, "src": ~task} | ({"shared": task | ~task} if passes == "three" else {})
        for name, chosen in rows.items():
            (model(x[chosen]) - y[chosen]).square().mean().backward()
            gems.take(name, int(chosen.sum()))
            assert model.weight.grad is None and model.bias.grad is None
        whole = torch.autograd.grad((model(x) - y).square().mean(), [model.weight])[0]
        torch.testing.assert_close(gems._gradients.shared(model.weight), whole)
        gems.step()
        adamw.step()
        adamw.zero_grad()
        torch.testing.assert_close(model.bias.data, bias.data)


def projector(width: int, kept: int) -> Tensor:
    basis = torch.linalg.qr(noise("null", width, shape=(width, kept))).Q
    return basis @ basis.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("orthogonal", [False, True])
def test_input_null_space_is_exact_decay_included(shape: tuple[int, int], basis: str, orthogonal: bool) -> None:
    null = projector(shape[1], 6)
    start = noise("w", shape=shape)
    given = {"rank": 8, "gap": 2, "basis": basis, "orthogonal": orthogonal, "decay": 0.5}
    parameter, gems = optimizer(start, null=null, **given)
    run(parameter, gems, range(7))
    change = parameter.data - start
    assert (change - change @ null).norm() <= 1e-12 * change.norm()
    protected = noise("x", shape=(shape[1], 5)) - null @ noise("x", shape=(shape[1], 5))
    torch.testing.assert_close(parameter.data @ protected, start @ protected, rtol=0, atol=1e-12)
    free, plain = optimizer(start, **given)
    run(free, plain, range(7))
    change = free.data - start
    assert (change - change @ null).norm() > 0.3 * change.norm(), "without it the update is everywhere"


def test_null_space_in_single_precision() -> None:
    """Beyond 1e-6 it is the rounding of the weights themselves that moves what is protected."""
    null, start = projector(16, 6).float(), noise("w", shape=(16, 16)).float() * 0.1
    parameter, gems = optimizer(start, null=null, rank=4, decay=0.1)
    run(parameter, gems, range(10))
    change = parameter.data - start
    assert (change - change @ null).norm() <= 1e-6 * change.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_bases_spend_their_rank_where_the_weight_may_go(shape: tuple[int, int]) -> None:
    """With P of rank 6 and a shared basis of rank 6 the update of a gradient in its range is not cut down."""
    null = projector(shape[1], 6)
    parameter, gems = optimizer(noise("w", shape=shape), null=null, rank=6, task_subspaces=False)
    run(parameter, gems, range(1), counts={"shared": 1})
    space = gems.state[parameter]["shared"]
    if shape[0] >= shape[1]:
        torch.testing.assert_close(null @ space["basis"], space["basis"])
        torch.testing.assert_close(space["basis"].T @ space["basis"], torch.eye(6).double())
    else:
        torch.testing.assert_close(null @ space["m"], space["m"])


def test_the_released_output_side_leaks_where_adam_mixes_rows() -> None:
    def leak(shape: tuple[int, int], rank: int) -> float:
        null, start = projector(shape[0], shape[0] * 5 // 8), noise("w", shape=shape)
        parameter, gems = optimizer(start, null=null, side="output", rank=rank, gap=100, task_subspaces=False)
        run(parameter, gems, range(5), counts={"shared": 1})
        change = parameter.data - start
        return float((change - null @ change).norm() / change.norm())

    assert 0.2 < leak((64, 64), 16) < 0.45 and 0.2 < leak((128, 64), 16) < 0.6
    assert leak((32, 64), 8) < 1e-10, "the left basis lies in the null space itself"


@pytest.mark.parametrize("moments", ["keep", "reset", "rotate"])
def test_moments_at_a_refresh(moments: str) -> None:
    """At full rank and a refresh each step `rotate` carries the mean gradient of the whole space along."""
    parameter, gems = optimizer(noise("w", shape=(9, 5)), rank=5, gap=1, moments=moments, task_subspaces=False)
    run(parameter, gems, range(4), counts={"shared": 1})
    space = gems.state[parameter]["shared"]
    gradients = [gradient(parameter, "shared", step) for step in range(4)]
    mean = sum(0.1 * 0.9 ** (3 - step) * g for step, g in enumerate(gradients))
    squares = sum(0.001 * 0.999 ** (3 - step) * g.square().sum(1) for step, g in enumerate(gradients))
    carried = space["m"] @ space["basis"].T
    if moments == "reset":
        torch.testing.assert_close(carried, 0.1 * gradients[-1])
        assert space["step"] == 1
    else:
        assert torch.allclose(carried, mean) == (moments == "rotate")
        torch.testing.assert_close(space["v"].sum(1), squares)
        assert (space["v"] >= 0).all() and space["step"] == 4


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_bases(basis: str, shape: tuple[int, int]) -> None:
    for orthogonal in (True, False):
        parameter, gems = optimizer(noise("w", shape=shape), rank=7, gap=2, basis=basis, orthogonal=orthogonal)
        run(parameter, gems, range(3))
        shared, rec, src = (gems.state[parameter][name]["basis"] for name in ("shared", "rec", "src"))
        for own in (shared, rec, src):
            torch.testing.assert_close(own.T @ own, torch.eye(own.shape[1]).double())
        overlap = max(float((shared.T @ own).abs().max()) for own in (rec, src))
        assert (overlap < 1e-10) == orthogonal
        assert rec.shape[1] == src.shape[1] == 3


def test_a_shared_space_of_full_rank_leaves_the_tasks_nothing() -> None:
    start = noise("w", shape=(8, 6))
    results = []
    for given in ({"orthogonal": True}, {"task_subspaces": False}):
        parameter, gems = optimizer(start, rank=6, **given)
        run(parameter, gems, range(3))
        results.append(parameter.data)
    torch.testing.assert_close(*results)


def test_conflict_weights_are_pcgrad_on_the_updates() -> None:
    for sign in (1, -1):
        n1, n2 = noise("n1", shape=(9, 3)), noise("n2", shape=(9, 2))
        b1, b2 = (torch.linalg.qr(noise("b", k, shape=(6, k))).Q for k in (3, 2))
        n2 = n2 + 3 * sign * n1 @ b1.T @ b2
        d1, d2 = n1 @ b1.T, n2 @ b2.T
        inner = (d1 * d2).sum()
        assert bool(inner < 0) == (sign < 0)
        expected = d1 + d2
        if sign < 0:
            expected = d1 - inner / d2.square().sum() * d2 + d2 - inner / d1.square().sum() * d1
        found = conflict_weights((n1, b1), (n2, b2))
        torch.testing.assert_close(found["rec"] * d1 + found["src"] * d2, expected)
    assert conflict_weights((n1, b1), None) == {}


def test_conflict_changes_the_update_only_where_tasks_oppose() -> None:
    start, g, other = noise("w", shape=(8, 8)), noise("g", shape=(8, 8)), 0.3 * noise("other", shape=(8, 8))
    for opposed in (False, True):
        results = []
        for weights in ("equal", "conflict"):
            parameter, gems = optimizer(start, rank=8, task_weights=weights)
            for task, own in (("rec", g), ("src", other - g if opposed else other + g)):
                parameter.grad = own.clone()
                gems.take(task, 1)
            gems.step()
            results.append(parameter.data)
        assert torch.equal(*results) != opposed


def test_shares_weigh_loss_norm_and_count() -> None:
    """Δ_rec and Δ_src of one step are sign matrices in their bases, so that their weights can be read off."""
    start = torch.zeros(4, 4).double()
    parameter, gems = optimizer(start, rank=8, task_weights="shares")
    grads = {"rec": torch.diag(torch.tensor([3.0, 0, 0, 0])), "src": torch.diag(torch.tensor([0, 4.0, 0, 0]))}
    for task, count, loss in (("rec", 3, 1.0), ("src", 1, 4.0)):
        parameter.grad = grads[task].double()
        gems.take(task, count, loss=loss)
    weights = gems._gradients.shares()
    rec = 0.4 * 1 / 5 + 0.4 * 3 / 7 + 0.2 * 3 / 4
    assert weights == pytest.approx({"rec": rec, "src": 1 - rec})
    gems.step()
    # The shared gradient has both entries and adds 1 to each.
    expected = -0.01 * (1 + torch.tensor([rec, 1 - rec]).double())
    torch.testing.assert_close(parameter.data.diagonal()[:2], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("state", ["fp32", "bf16"])
@pytest.mark.parametrize("basis", BASES)
def test_saved_and_loaded_it_goes_on_bit_for_bit(state: str, basis: str) -> None:
    start = noise("w", shape=(10, 7)).float()
    given = {"rank": 4, "gap": 3, "state": state, "basis": basis}

    def build() -> tuple[nn.Parameter, nn.Parameter, GEMS]:
        bias = nn.Parameter(torch.zeros(3))
        return bias, *optimizer(start, others=({"params": [bias]},), **given)

    def go(bias: nn.Parameter, parameter: nn.Parameter, gems: GEMS, steps: range) -> None:
        for step in steps:
            for task in ("rec", "src"):
                parameter.grad = gradient(parameter, task, step)
                bias.grad = torch.full((3,), step - 2.0)
                gems.take(task, 2)
            gems.step()

    whole, first, second = build(), build(), build()
    go(*whole, range(8))
    go(*first, range(4))
    torch.rand(3)
    file = io.BytesIO()
    torch.save(first[2].state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for new, old in zip(second[:2], first[:2], strict=True):
            new.copy_(old)
    second[2].load_state_dict(torch.load(file, weights_only=True))
    go(*second, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole[:2], second[:2], strict=True))
    kept = torch.bfloat16 if state == "bf16" else torch.float32
    held = [v for k in ("shared", "rec", "src") for v in second[2].state[second[1]][k].values() if torch.is_tensor(v)]
    assert len(held) == 9 and {v.dtype for v in held} == {kept}


def test_bf16_follows_fp32_and_its_squares_fall() -> None:
    start = noise("w", shape=(24, 16)).float()
    changes = []
    for state in ("fp32", "bf16"):
        parameter, gems = optimizer(start, rank=8, gap=50, state=state, task_subspaces=False)
        run(parameter, gems, range(30), counts={"shared": 1})
        changes.append((parameter.data - start).flatten())
    assert torch.cosine_similarity(*changes, dim=0) > 0.99
    before = gems.state[parameter]["shared"]["v"].float().sum()
    for _ in range(100):
        parameter.grad = torch.zeros_like(parameter)
        gems.take("shared", 1)
        gems.step()
    fell = gems.state[parameter]["shared"]["v"].float().sum() / before
    assert float(fell) == pytest.approx(0.999**100, rel=0.03), "rounded to the nearest it would not fall at all"


def test_rounding_is_right_on_average() -> None:
    values = torch.full((20_000,), 1.001)
    drawn = rounded(values, torch_generator(0, "rounding"))
    assert drawn.dtype == torch.bfloat16 and set(drawn.tolist()) == {1.0, 1.0078125}
    assert float(drawn.float().mean()) == pytest.approx(1.001, abs=1e-4)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (40, 6)])
def test_randomized_directions_hold_what_the_leading_ones_hold(shape: tuple[int, int]) -> None:
    u, v = (torch.linalg.qr(noise("uv", n, shape=(n, min(shape)))).Q for n in shape)
    source = u * (0.5 ** torch.arange(min(shape))) @ v.T
    before = torch.get_rng_state()
    found = [directions(source, 5, "randomized", torch_generator(seed, "d")) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0].T @ found[0], torch.eye(5).double())
    best = directions(source, 5, "svd", torch_generator(0, "d"))
    torch.testing.assert_close((source @ found[2]).norm(), (source @ best).norm(), rtol=1e-4, atol=0)


def test_state_is_as_small_as_the_formula_says() -> None:
    """(s + 2 l) (r + 2 (r // 2)) numbers; the storage too, for a view would hold a whole decomposition."""
    parameter, gems = optimizer(noise("w", shape=(48, 32)).float(), rank=4)
    run(parameter, gems, range(2))
    spaces = [gems.state[parameter][name] for name in ("shared", "rec", "src")]
    held = [v for space in spaces for v in space.values() if torch.is_tensor(v)]
    expected = (32 + 2 * 48) * 8 * 4
    assert sum(v.untyped_storage().nbytes() for v in held) == expected < 48 * 32 * 8 / 2


def test_an_absent_task_goes_on_by_momentum_and_its_refresh_waits() -> None:
    parameter, gems = optimizer(noise("w", shape=(8, 6)), rank=4, gap=2)
    run(parameter, gems, range(1), counts={"rec": 1})
    assert gems.state[parameter]["src"] == {"due": True}
    run(parameter, gems, range(1, 2))
    old = {name: gems.state[parameter][name]["basis"].clone() for name in ("rec", "src")}
    momentum = gems.state[parameter]["src"]["m"].clone()
    run(parameter, gems, range(2, 3), counts={"rec": 1})
    state = gems.state[parameter]
    assert state["src"]["due"] and torch.equal(state["src"]["basis"], old["src"]), "a refresh was due"
    assert not torch.equal(state["rec"]["basis"], old["rec"])
    assert torch.equal(state["src"]["m"], momentum)
    run(parameter, gems, range(3, 4))
    assert not state["src"]["due"] and not torch.equal(state["src"]["basis"], old["src"])
    run(parameter, gems, range(4, 6))
    momentum = state["src"]["m"].clone()
    assert state["age"] == 6
    run(parameter, gems, range(6, 7))
    run(parameter, gems, range(7, 8), counts={"rec": 1})
    assert not torch.equal(state["src"]["m"], momentum)


def test_clipping_scales_every_gradient_by_one_factor() -> None:
    bias = nn.Parameter(torch.zeros(2).double())
    parameter, gems = optimizer(torch.zeros(4, 4).double(), others=({"params": [bias]},), rank=2)
    for task, count in (("rec", 1), ("src", 3)):
        parameter.grad, bias.grad = gradient(parameter, task, 0), torch.ones(2).double()
        gems.take(task, count)
    mean = (gradient(parameter, "rec", 0) + 3 * gradient(parameter, "src", 0)) / 4
    norm = torch.cat([mean.flatten(), torch.ones(2).double()]).norm()
    torch.testing.assert_close(gems.clip(None), norm)
    torch.testing.assert_close(gems.clip(0.5), norm)
    torch.testing.assert_close(gems.clip(100.0), torch.tensor(0.5).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gems._gradients.taken["src"][parameter], gradient(parameter, "src", 0) * (0.5 / norm))


def test_refusals() -> None:
    parameter, gems = optimizer(torch.ones(4, 4), passes="three")
    parameter.grad = torch.ones(4, 4)
    gems.take("rec", 2)
    with pytest.raises(ValueError, match="once a step"):
        gems.take("rec", 2)
    with pytest.raises(ValueError, match="'shared' before the step"):
        gems.step()
    parameter, gems = optimizer(torch.ones(4, 4))
    parameter.grad = torch.full((4, 4), math.nan)
    gems.take("rec", 2)
    with pytest.raises(UnisrError, match="not finite; lower training.learning_rate"):
        gems.step()
