"""Separation of known clouds and subspaces, and hidden states against a direct computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn

from tests.contract import Setting
from unisr import registry
from unisr.analysis import parameter_space, separation
from unisr.analysis.parameter_space import DATA, FINAL, SpaceSettings
from unisr.config import RunConfig
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import ConfigError, StoreError, UnisrError
from unisr.models.base import Scorer

TINY = SpaceSettings(queries=15, layers="main", shuffles=2, points=10, directions=2)


def clouds(distance: float, n: int = 200, d: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two unit Gaussians whose means are `distance` apart in each coordinate; a point of each label for every user."""
    rng = np.random.default_rng(0)
    labels = np.arange(2 * n) % 2
    return rng.standard_normal((2 * n, d)) + distance * labels[:, None], labels, np.arange(2 * n) // 2


def value(frame: pd.DataFrame, measure: str) -> pd.Series:
    return frame.set_index("measure").loc[measure]


def test_far_clouds_are_told_apart_and_equal_ones_are_not() -> None:
    far, near = (separation.measured(*clouds(distance)) for distance in (6.0, 0.0))
    assert value(far, "accuracy")["value"] > 0.99 and value(far, "silhouette")["value"] > 0.5
    assert value(near, "accuracy")["value"] == pytest.approx(0.5, abs=0.08)
    assert abs(value(near, "silhouette")["value"]) < 0.02
    for frame in (far, near):
        rows = frame[frame["measure"].isin(["accuracy", "silhouette", "angle"])]
        assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()


def test_accuracy_of_gaussians_is_the_bayes_rate() -> None:
    """Means 1 apart in 4 coordinates: the best linear rule is right with probability Phi(sqrt(4)/2)."""
    points, labels, users = clouds(1.0, n=1500, d=4)
    assert separation.accuracy(points, labels, users).mean() == pytest.approx(0.8413, abs=0.02)


def test_shuffled_labels_are_at_chance_whatever_the_points() -> None:
    frame = separation.shuffled(*clouds(6.0), np.random.default_rng(1), times=5)
    row = value(frame, "accuracy")
    assert row["value"] == pytest.approx(0.5, abs=0.06) and row["low"] <= row["value"] <= row["high"]
    assert abs(value(frame, "silhouette")["value"]) < 0.02


def test_folds_hold_whole_users() -> None:
    """Points that tell the user and nothing else: a fold that shared users would name their label."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), 10)
    points, labels = rng.standard_normal((40, 30))[users], rng.permutation(np.arange(40) % 2)[users]
    assert separation.accuracy(points, labels, users).mean() < 0.75
    assert separation.accuracy(points, labels, rng.permutation(400)).mean() > 0.95


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0])
def test_angles_of_known_subspaces(degrees: float) -> None:
    """Both axes of the second cloud are turned out of the plane of the first, whatever its mean."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((300, 2)) * [3.0, 2.0]
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first = np.column_stack([plane, np.zeros((300, 2))])
    points, labels = np.concatenate([first, np.column_stack([cos * plane, sin * plane]) + 7.0]), np.repeat([0, 1], 300)
    assert separation.angle(points, labels, directions=2) == pytest.approx(degrees, abs=1e-4)


def test_halves_of_a_task_give_the_noise_of_an_angle() -> None:
    rng = np.random.default_rng(0)
    points, labels, users = clouds(0.0, d=8)
    points = points * np.array([9.0, 5.0, 3.0, 1, 1, 1, 1, 1])
    floor = value(separation.halves(points, labels, rng), "angle")
    own = value(separation.measured(points, labels, users), "angle")
    assert 0 < floor["low"] <= floor["value"] <= floor["high"] < 45
    assert own["value"] < floor["high"], "equal distributions: no larger than what halves, which are smaller, give"


def test_equal_counts_users_whose_points_are_the_same() -> None:
    points, labels, users = clouds(1.0, n=10)
    points[labels == 1] = np.where(np.arange(10)[:, None] < 4, points[labels == 0], points[labels == 1])
    assert separation.equal(points, labels, users) == pytest.approx(0.4)
    assert np.isnan(separation.equal(points, labels, np.arange(20)))


def test_too_few_users_or_points_are_refused() -> None:
    points, labels, users = clouds(0.0, n=4, d=3)
    with pytest.raises(UnisrError, match="4 users cannot make 5 folds"):
        separation.accuracy(points, labels, users)
    with pytest.raises(UnisrError, match="no 4 directions"):
        separation.angle(points, labels, directions=4)


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_projections_are_scaled_and_repeatable(projection: str) -> None:
    points, labels, _ = clouds(8.0, n=40)
    places = separation.plane(points, projection)
    assert places.std(0) == pytest.approx([1, 1], abs=1e-4) and places.mean(0) == pytest.approx([0, 0], abs=1e-4)
    assert np.array_equal(places, separation.plane(points, projection))
    assert separation.accuracy(places, labels, np.arange(80)).mean() > 0.95
    assert not separation.plane(np.full((30, 4), 2.5), projection).any()


def test_density_integrates_to_one_and_is_highest_at_the_cloud() -> None:
    places = np.random.default_rng(0).standard_normal((300, 2)) * 0.5 + [1.0, 0.0]
    side = np.linspace(-4, 4, 61)
    found = separation.density(places, side, side)
    assert trapezoid(trapezoid(found, side), side) == pytest.approx(1, abs=0.01)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert side[column] == pytest.approx(1, abs=0.4) and side[row] == pytest.approx(0, abs=0.4)


# Hidden states.


@pytest.fixture(scope="module")
def settings(world: Dataset) -> dict[str, Setting]:
    return {name: Setting(world, registry.method(name)) for name in ("GenSR", "UniSAR")}


def one_candidate(setting: Setting, scorer: Scorer, task: Task = Task.SRC) -> Batch:
    return setting.batch(scorer, rows=setting.dataset.rows(Split.TEST, task)[:5], candidates=1)


def hooks(scorer: Scorer) -> int:
    return sum(len(module._forward_hooks) for module in scorer.modules())


@pytest.mark.parametrize("task", [Task.REC, Task.SRC])
def test_the_final_state_is_what_the_score_is_made_of(settings: dict[str, Setting], task: Task) -> None:
    scorer = settings["GenSR"].build()
    batch = one_candidate(settings["GenSR"], scorer, task)
    state = parameter_space.states(scorer, batch, [FINAL])[FINAL]
    logits = scorer.backbone.logits(state)
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], scorer.score(batch)[:, 0].detach())


def test_the_final_state_before_a_task_head(settings: dict[str, Setting]) -> None:
    scorer = settings["UniSAR"].build()
    batch = one_candidate(settings["UniSAR"], scorer)
    state = parameter_space.states(scorer, batch, [FINAL])[FINAL]
    last = [part for part in scorer.heads[1].modules() if isinstance(part, nn.Linear)][-1]
    torch.testing.assert_close(last(state), scorer.score(batch))


def test_attention_states_are_those_of_a_direct_pass(settings: dict[str, Setting]) -> None:
    scorer = settings["UniSAR"].build()
    batch = one_candidate(settings["UniSAR"], scorer)
    given: list[tuple[Tensor, ...]] = []
    layer = scorer.merged.blocks[0].attend
    inputs = layer.register_forward_pre_hook(lambda module, args: given.append(args))
    scorer.score(batch)
    inputs.remove()
    name = parameter_space.layers_of(scorer, "main")[0]
    assert dict(scorer.named_modules())[name] is layer
    direct = layer(*given[0])
    for pooling, expected in (("last", direct[:, -1]), ("mean", direct.mean(1))):
        torch.testing.assert_close(parameter_space.states(scorer, batch, [name], pooling=pooling)[name], expected)


def test_packed_attention_gives_the_state_of_the_candidates_block(settings: dict[str, Setting]) -> None:
    """A T5 attention whose parts the packed pass calls: the state depends on the candidate and does not on others."""
    scorer = settings["GenSR"].build()
    batch = one_candidate(settings["GenSR"], scorer)
    name = parameter_space.layers_of(scorer, "main")[0]
    state = parameter_space.states(scorer, batch, [name])[name]
    assert state.shape == (5, scorer.backbone.width) and torch.isfinite(state).all()
    alone = parameter_space.states(scorer, batch.select(torch.tensor([2])), [name])[name]
    torch.testing.assert_close(alone[0], state[2], rtol=1e-4, atol=1e-5)
    batch.candidates = batch.candidates % settings["GenSR"].dataset.n_items + 1
    assert not torch.allclose(parameter_space.states(scorer, batch, [name])[name], state)


@pytest.mark.parametrize("method", ["GenSR", "UniSAR"])
def test_every_listed_layer_has_states_and_no_hook_is_left(settings: dict[str, Setting], method: str) -> None:
    scorer = settings[method].build()
    layers = parameter_space.layers_of(scorer)
    found = parameter_space.states(scorer, one_candidate(settings[method], scorer), layers)
    assert list(found) == layers and len(layers) > 2 and all(len(x) == 5 for x in found.values())
    assert hooks(scorer) == 0
    with pytest.raises(RuntimeError, match="inside"), parameter_space.hooked(dict(scorer.named_modules())):
        assert hooks(scorer)
        raise RuntimeError("inside")
    assert hooks(scorer) == 0


def test_states_refuse_what_they_cannot_read(settings: dict[str, Setting]) -> None:
    scorer = settings["GenSR"].build()
    batch = one_candidate(settings["GenSR"], scorer)
    with pytest.raises(ConfigError, match="no layer nowhere; it has backbone"):
        parameter_space.states(scorer, batch, ["nowhere"])
    with pytest.raises(ConfigError, match="does not call backbone.model.lm_head"):
        parameter_space.states(scorer, batch, ["backbone.model.lm_head"])
    with pytest.raises(ConfigError, match="one candidate"):
        parameter_space.states(scorer, settings["GenSR"].batch(scorer, candidates=3), [FINAL])


# Tables.


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty results folder, and places in the plane without t-SNE and UMAP, which take seconds."""
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    monkeypatch.setattr(separation, "plane", lambda points, projection: points[:, :2].astype(float))


@pytest.mark.usefixtures("plain")
def test_tables_of_a_run_are_kept_and_an_untrained_run_equals_its_control(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(method="UniSAR", dataset="synthetic", preset="quick", training={"epochs": 0})
    assert not parameter_space.is_available(config, TINY)
    numbers, places = parameter_space.numbers(config, TINY), parameter_space.coordinates(config, TINY)
    assert parameter_space.is_available(config, TINY)
    numeric = ["value", "low", "high"]
    for labels in ("tasks", "shuffled", "halves"):
        rows = numbers[numbers["labels"] == labels]
        trained, untrained = (rows[rows["weights"] == w][numeric].to_numpy() for w in ("trained", "untrained"))
        assert len(trained) and np.array_equal(trained, untrained, equal_nan=True)
    assert set(numbers["layer"]) == {"merged.blocks.0.attend", FINAL} and numbers["main"].all()
    assert len(places) == 2 * 2 * 2 * 2 * TINY.points and set(places["task"]) == {"rec", "src"}
    assert set(places["projection"]) == {"pca", "umap"}
    monkeypatch.setattr(parameter_space, "collect", None)
    pd.testing.assert_frame_equal(parameter_space.numbers(config, TINY), numbers)


@pytest.mark.usefixtures("plain")
def test_the_data_are_told_apart_by_their_queries() -> None:
    config = RunConfig(method="UniSAR", dataset="synthetic", preset="quick")
    settings = TINY.model_copy(update={"queries": 45})
    numbers, places = parameter_space.data_space(config, settings)
    assert set(numbers["method"]) == {DATA} == set(places["method"])
    assert set(places["projection"]) == set(separation.PROJECTIONS)
    without = parameter_space.data_space(config, settings.model_copy(update={"umap": False}))[1]
    assert set(without["projection"]) == {"pca", "tsne"}
    own = numbers[(numbers["labels"] == "tasks") & (numbers["measure"] == "accuracy")].set_index("layer")["value"]
    assert own["history + query + target"] > max(0.75, own["history + target"])
    other = RunConfig(method="GenSR", dataset="synthetic", preset="quick", seed=3)
    pd.testing.assert_frame_equal(parameter_space.data_space(other, settings)[0], numbers)


@pytest.mark.usefixtures("plain")
def test_runs_that_cannot_be_read_are_named() -> None:
    with pytest.raises(StoreError, match="no stored run"):
        parameter_space.numbers(RunConfig(method="UniSAR", dataset="synthetic", preset="small"), TINY)
    with pytest.raises(ConfigError, match="SASRec does not do src"):
        parameter_space.numbers(RunConfig(method="SASRec", dataset="synthetic", preset="quick"), TINY)
