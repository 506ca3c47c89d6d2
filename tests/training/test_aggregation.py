"""Aggregators against their closed forms for two tasks, and the loop that uses them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.tiny import TinyLoader, TinyScorer, tiny_batch, tiny_scorer, tiny_validation
from unisr.config import RunConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.errors import ConfigError
from unisr.models.base import Scorer
from unisr.random import generator
from unisr.training import train
from unisr.training.aggregation import Aggregation, Weights, gram, rescaled, task_gradients

AGGREGATORS = ("pcgrad", "cagrad", "mgda", "nash")


def pairs(count: int = 12, width: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    """Two gradients of unlike length that share a direction (of either sign), so that some oppose."""
    rng = generator(0, "pairs of gradients")
    for number in range(count):
        g = torch.from_numpy(rng.normal(size=(2, width)) * [[1], [10.0 ** rng.uniform(-1, 1)]])
        g[1] += (-1) ** number * g[0]
        yield g[0], g[1]


def result(name: str, g1: Tensor, g2: Tensor) -> Tensor:
    first, second = Weights(name)(gram((g1, g2)))
    return first * g1 + second * g2


@pytest.mark.parametrize("case", range(12))
def test_pcgrad_drops_what_opposes(case: int) -> None:
    g1, g2 = list(pairs())[case]
    b = g1 @ g2
    expected = g1 + g2
    if b < 0:
        own, other = g1 - b / (g2 @ g2) * g2, g2 - b / (g1 @ g1) * g1
        assert abs(own @ g2) < 1e-9 and abs(other @ g1) < 1e-9, "the closed form is orthogonal"
        expected = own + other
    torch.testing.assert_close(result("pcgrad", g1, g2), expected)


def test_both_signs_are_tested() -> None:
    signs = {bool(g1 @ g2 < 0) for g1, g2 in pairs()}
    assert signs == {True, False}


@pytest.mark.parametrize("case", range(12))
def test_mgda_is_the_shortest_vector_of_the_segment(case: int) -> None:
    g1, g2 = list(pairs())[case]
    a, b, c = g1 @ g1, g1 @ g2, g2 @ g2
    share = float(np.clip((c - b) / (a + c - 2 * b), 0, 1))
    found = result("mgda", g1, g2)
    torch.testing.assert_close(found, share * g1 + (1 - share) * g2, rtol=1e-4, atol=1e-6)
    least = min(found @ g1, found @ g2)
    assert least >= found @ found * (1 - 1e-6), "no task is made worse"


@pytest.mark.parametrize("case", range(12))
def test_cagrad_is_the_minimum_over_mixtures(case: int) -> None:
    """A grid over the weight in place of the solver; then g0 + (c |g0| / |g_w|) g_w."""
    g1, g2 = list(pairs())[case]
    mean, radius = (g1 + g2) / 2, 0.5 * ((g1 + g2) / 2).norm()
    share = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    mixed = share * g1 + (1 - share) * g2
    best = mixed[(mixed @ mean + radius * mixed.norm(dim=1)).argmin()]
    expected = mean + radius / best.norm() * best
    torch.testing.assert_close(result("cagrad", g1, g2), expected, rtol=1e-3, atol=1e-4)


def test_cagrad_without_radius_is_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisr.training.aggregation.CAGRAD_RADIUS", 0.0)
    for g1, g2 in pairs():
        torch.testing.assert_close(result("cagrad", g1, g2), (g1 + g2) / 2)


@pytest.mark.parametrize("case", range(12))
def test_nash_adds_unit_vectors_and_does_not_know_scales(case: int) -> None:
    """w_i = 1 / (|g_i| sqrt(1 + cos)): the bargaining solution, within the solver's precision."""
    g1, g2 = list(pairs())[case]
    sharpness = math.sqrt(1 + float(torch.cosine_similarity(g1, g2, dim=0)))
    expected = (g1 / g1.norm() + g2 / g2.norm()) / sharpness
    found = result("nash", g1, g2)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.999
    scaled = result("nash", 100 * g1, g2)
    assert torch.cosine_similarity(scaled, expected, dim=0) > 0.999
    assert abs(torch.cosine_similarity(g1 + g2, 100 * g1 + g2, dim=0)) < 0.999, "the sum does know them"


@pytest.mark.parametrize("name", AGGREGATORS)
def test_weights_depend_on_the_gram_matrix_as_on_the_jacobian(name: str) -> None:
    """torchjd's aggregators on the whole Jacobian give what our weights from G give; Nash's own solver is precise where
    norms are alike."""
    from torchjd import aggregation

    whole = {
        "pcgrad": aggregation.PCGrad, "mgda": aggregation.MGDA,
        "cagrad": lambda: aggregation.CAGrad(c=0.5), "nash": lambda: aggregation.NashMTL(n_tasks=2, max_norm=0.0),
    }  # fmt: skip
    for g1, g2 in pairs(6):
        g1, g2 = (g / g.norm() if name == "nash" else g for g in (g1, g2))
        torch.testing.assert_close(result(name, g1, g2), whole[name]()(torch.stack([g1, g2])), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_results_are_brought_to_the_norm_of_the_sum(name: str) -> None:
    for g1, g2 in pairs(6):
        matrix = gram((g1, g2))
        w = rescaled(Weights(name)(matrix), matrix)
        torch.testing.assert_close((w[0] * g1 + w[1] * g2).norm(), (g1 + g2).norm())
    opposed = gram((torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])))
    assert rescaled(torch.ones(2).double(), opposed).tolist() == [1, 1], "what vanishes stays"


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("matrix", [[[0.0, 0.0], [0.0, 2.0]], [[math.nan, 0.0], [0.0, 1.0]]])
def test_a_missing_or_broken_gradient_gives_the_sum(name: str, matrix: list[list[float]]) -> None:
    assert Weights(name)(torch.tensor(matrix).double()).tolist() == [1, 1]


def test_gram_counts_nothing_as_zero() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    assert gram((a, None, b)).tolist() == [[5, 0, 1], [0, 0, 0], [1, 0, 10]]
    assert gram((None, None)).tolist() == [[0, 0], [0, 0]]


def test_shared_parameters_are_aggregated_and_the_rest_is_summed(scorer: TinyScorer) -> None:
    class Split(TinyScorer):
        def __init__(self) -> None:
            super().__init__(scorer.config)
            self.heads = torch.nn.ParameterList([torch.ones(1), torch.ones(1)])

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            terms = super().losses(batch)
            named = {task: terms[task] * head.sum() for task, head in zip(("rec", "src"), self.heads, strict=True)}
            return {**named, "extra": (self.items.weight**2).sum() * 0.01}

    model = Split().eval()
    batch = tiny_batch(generator(0, "shared"))
    losses = model.losses(batch)
    aggregation = Aggregation(model, TrainConfig(aggregator="mgda"))
    parameters = [model.items.weight, *model.heads]
    found = task_gradients(losses, parameters)
    (extra,) = torch.autograd.grad(model.losses(batch)["extra"], [model.items.weight])
    aggregation.add(model.losses(batch), share=0.25)
    aggregation.add(model.losses(batch), share=0.75)
    aggregation.apply()
    assert found["rec"][2] is None and found["src"][1] is None
    torch.testing.assert_close(model.heads[0].grad, found["rec"][1])
    torch.testing.assert_close(model.heads[1].grad, found["src"][2])
    shared = [model.items.weight, model.norm.weight, model.norm.bias, model.unused_task]
    flat = {t: torch.cat([g.flatten() for g in v]) for t, v in task_gradients(model.losses(batch), shared).items()}
    matrix = gram(list(flat.values()))
    weights = rescaled(Weights("mgda")(matrix), matrix).float()
    expected = weights[0] * found["rec"][0] + weights[1] * found["src"][0] + extra
    torch.testing.assert_close(model.items.weight.grad, expected)
    assert model.frozen.grad is None


def weights_after(aggregator: str, config: dict[str, object] | None = None, **options: object) -> dict[str, Tensor]:
    scorer = tiny_scorer()
    settings = {"epochs": 2, "learning_rate": 0.05, **(config or {})}
    train(scorer, TinyLoader(), TrainConfig(aggregator=aggregator, **settings), seed=0, **options)
    return scorer.state_dict()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_each_trains_another_model_and_learns(name: str) -> None:
    plain, other = weights_after("sum"), weights_after(name)
    assert not torch.equal(plain["items.weight"], other["items.weight"])
    scorer = tiny_scorer()
    log = train(scorer, TinyLoader(), TrainConfig(epochs=6, learning_rate=0.05, aggregator=name), seed=0).frame()
    assert log["loss"].iloc[-1] < 0.9 * log["loss"].iloc[0]


def test_equal_weights_are_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the aggregators with weights (1, 1) takes the steps of the plain path, accumulation included."""
    monkeypatch.setattr("unisr.training.aggregation.Weights.__call__", lambda self, matrix: matrix.new_ones(2))
    config = {"accumulation": 2, "weight_decay": 0.1, "clip_norm": 0.5, "learning_rate": 1e-3}
    plain, same = weights_after("sum", config), weights_after("mgda", config)
    for name, value in plain.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["nash", "pcgrad"])
def test_resumed_equals_undisturbed(name: str, tmp_path: Path) -> None:
    """Nash-MTL's solver starts at its last weights, which no checkpoint holds."""
    config = TrainConfig(epochs=3, learning_rate=0.05, aggregator=name)
    whole = tiny_scorer()
    train(whole, TinyLoader(), config, seed=0, validate=lambda: tiny_validation(whole))

    class Stop(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        raise Stop

    for _ in range(2):
        pieces = tiny_scorer()
        with pytest.raises(Stop):
            train(pieces, TinyLoader(), config, seed=0, checkpoints=tmp_path, on_epoch=stop,
                  validate=lambda: tiny_validation(pieces))  # noqa: B023  # fmt: skip
    pieces = tiny_scorer()
    train(pieces, TinyLoader(), config, seed=0, checkpoints=tmp_path, validate=lambda: tiny_validation(pieces))
    assert all(torch.equal(value, pieces.state_dict()[key]) for key, value in whole.state_dict().items())


def test_refusals(scorer: TinyScorer) -> None:
    config = TrainConfig(aggregator="mgda")
    with pytest.raises(ConfigError, match="rec; use 'sum'"):
        train(scorer, TinyLoader(), config.model_copy(update={"tasks": ("rec",)}), seed=0)
    with pytest.raises(ConfigError, match="there are 2"):
        Aggregation(scorer, config, processes=2)

    class Sequences(TinyScorer):
        feeds_on = "sequences"

    with pytest.raises(ConfigError, match="both tasks in one batch"):
        Aggregation(Sequences(scorer.config), config)


def test_the_default_is_in_no_dump_so_that_ids_stay() -> None:
    plain = RunConfig(method="UniSAR", preset="quick")
    assert "aggregator" not in plain.model_dump(mode="json")["training"]
    same = RunConfig(method="UniSAR", preset="quick", training={"aggregator": "sum"})
    other = RunConfig(method="UniSAR", preset="quick", training={"aggregator": "nash"})
    assert plain.config_id == same.config_id != other.config_id


def test_scorers_of_one_term_are_left_alone() -> None:
    """A batch of one task has no pair: its gradient is taken as it is."""

    class One(TinyScorer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            return {"rec": super().losses(batch)["rec"]}

    scorer: Scorer = One(tiny_scorer().config).eval()
    batch = tiny_batch(generator(0, "one"))
    (expected,) = torch.autograd.grad(scorer.losses(batch)["rec"], [scorer.items.weight])
    aggregation = Aggregation(scorer, TrainConfig(aggregator="nash"))
    aggregation.add(scorer.losses(batch), share=1.0)
    aggregation.apply()
    torch.testing.assert_close(scorer.items.weight.grad, expected)
