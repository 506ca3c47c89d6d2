"""The loop with the GEMS optimizer: what it is given, resumed trainings, several processes, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.covered import (
    CoveredScorer,
    Uneven,
    covered_scorer,
    random_projectors,
    together,
)
from tests.training.test_resume import ROOT, without_clocks
from tests.training.tiny import TinyLoader, tiny_scorer
from unisr.config import RunConfig, TrainConfig
from unisr.data.batches import Batch
from unisr.errors import ConfigError
from unisr.training import train
from unisr.training.gems import GEMS


@pytest.fixture
def null_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unisr.training.null_space", SimpleNamespace(projectors=random_projectors))


def trained(loader: TinyLoader | None = None, *, dropout: float = 0.0, **given: Any) -> CoveredScorer:
    scorer = covered_scorer()
    scorer.dropout = dropout
    settings = {"epochs": 2, "learning_rate": 0.02, "clip_norm": None, "subspace": {}, **given}
    train(scorer, loader or TinyLoader(), TrainConfig(**settings), seed=0)
    return scorer


@pytest.mark.parametrize("subspace", [
    {"rank": 4, "gap": 5}, {"rank": 4, "passes": "three", "basis": "randomized"},
    {"rank": 4, "task_subspaces": False}, {"rank": 4, "task_weights": "conflict", "state": "bf16", "basis": "random"},
])  # fmt: skip
def test_learns_and_logs(subspace: dict[str, Any]) -> None:
    scorer = covered_scorer()
    config = TrainConfig(epochs=12, learning_rate=0.05, subspace=subspace)
    log = train(scorer, TinyLoader(), config, seed=0).frame()
    assert log["loss"].iloc[-1] < 0.9 * log["loss"].iloc[0]
    assert (log["gradient_norm"] > 0).all() and (log["examples"] == 96).all()
    assert log["loss"].to_numpy() == pytest.approx((log["loss_rec"] + log["loss_src"]).to_numpy(), rel=1e-5)


def test_three_passes_are_counted_ones_at_three_halves_of_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    losses = CoveredScorer.losses

    def counting(self: CoveredScorer, batch: Batch) -> dict[str, torch.Tensor]:
        rows.append(len(batch))
        return losses(self, batch)

    monkeypatch.setattr(CoveredScorer, "losses", counting)
    results = []
    for passes in ("counted", "three"):
        before = sum(rows)
        scorer = trained(Uneven(), epochs=1, accumulation=2, subspace={"rank": 8, "passes": passes})
        results.append((scorer.up.weight.data, sum(rows) - before))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
    assert results[1][1] == 2 * results[0][1], "tasks once and all rows once"


def test_accumulated_batches_are_one_batch() -> None:
    class Joined(Uneven):
        def epoch(self, epoch: int) -> list[Batch]:
            parts = list(super().epoch(epoch))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            return [Batch(**{k: torch.cat([v, vars(b)[k]]) for k, v in vars(a).items()}) for a, b in pairs]

    joined = Joined()
    small = trained(Uneven(), accumulation=2, subspace={"rank": 3, "gap": 2})
    joined_steps = SimpleNamespace(steps=3, epoch=joined.epoch)
    large = trained(joined_steps, subspace={"rank": 3, "gap": 2})
    for name, value in small.state_dict().items():
        torch.testing.assert_close(value, large.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_what_is_not_covered_follows_the_mean_over_all_rows() -> None:
    """The item vectors after one step are those of AdamW on the mean loss of all rows."""
    expected = covered_scorer()
    _, batch = Uneven(steps=2).epoch(0)
    adamw = torch.optim.AdamW(expected.items.parameters(), lr=0.02, weight_decay=0.0)
    torch.nn.functional.cross_entropy(expected.score(batch), batch.labels.argmax(1)).backward()
    adamw.step()
    for subspace in ({"rank": 4}, {"rank": 4, "task_subspaces": False}):
        found = trained(SimpleNamespace(steps=1, epoch=lambda _: [batch]), epochs=1, subspace=subspace)
        torch.testing.assert_close(found.items.weight.data, expected.items.weight.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("state", ["fp32", "bf16"])
def test_resumed_equals_undisturbed(state: str, tmp_path: Path, null_space: None) -> None:
    """With dropout, bases that are drawn, clipping, decay and a null space of the weights as built."""
    subspace = {"rank": 4, "gap": 4, "basis": "randomized", "moments": "rotate", "state": state, "null_space": {}}
    config = TrainConfig(epochs=3, learning_rate=0.02, weight_decay=0.1, subspace=subspace, schedule="linear")

    class Stop(Exception): ...

    def stop(row: dict[str, float]) -> None:
        raise Stop

    def fresh() -> CoveredScorer:
        scorer = covered_scorer()
        scorer.dropout = 0.2
        return scorer

    whole = fresh()
    undisturbed = train(whole, Uneven(), config, seed=1)
    for _ in range(config.epochs):
        with pytest.raises(Stop):
            train(fresh(), Uneven(), config, seed=1, checkpoints=tmp_path, on_epoch=stop)
    pieces = fresh()
    log = train(pieces, Uneven(), config, seed=1, checkpoints=tmp_path)
    assert without_clocks(log.rows) == without_clocks(undisturbed.rows)
    assert all(torch.equal(value, pieces.state_dict()[name]) for name, value in whole.state_dict().items())


def test_null_space_keeps_what_the_layers_make_of_protected_inputs(null_space: None) -> None:
    config = {"rank": 4, "gap": 3, "null_space": {}}
    before, after = covered_scorer(), trained(subspace=config, weight_decay=0.1)
    found = random_projectors(before.lm, before.covered(), before.general, SimpleNamespace(side="input"))
    for name, layer in after.covered().items():
        change = layer.weight.data - before.covered()[name].weight.data
        assert change.norm() > 0.01
        assert (change - change @ found[name]).norm() <= 1e-5 * change.norm()
    output = trained(subspace={"rank": 4, "gap": 3, "null_space": {"side": "output"}})
    assert not torch.equal(output.up.weight, after.up.weight)


def test_the_default_leaves_ids_as_they_are() -> None:
    plain = RunConfig(method="UniSAR", preset="quick")
    assert "subspace" not in plain.model_dump(mode="json")["training"]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str, scorer: object = None, **given: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            config = TrainConfig(**{"epochs": 1, "subspace": {}, **given})
            train(scorer or covered_scorer(), TinyLoader(), config, seed=0)

    refused("Tiny covers no weights", tiny_scorer())
    refused("task_weights", aggregator="pcgrad")
    refused("task_subspaces to false", tasks=("rec",))
    bare = covered_scorer()
    del bare.lm
    refused("no language model", bare, subspace={"null_space": {}})
    frozen = covered_scorer()
    frozen.square.requires_grad_(False)
    refused("frozen \\(square", frozen)
    few = SimpleNamespace(projectors=lambda *_: {"up": torch.eye(8)})
    monkeypatch.setitem(sys.modules, "unisr.training.null_space", few)
    refused("no projector for down, square", subspace={"null_space": {}})


def test_one_task_trains_in_the_shared_space_alone() -> None:
    class OfRec(TinyLoader):
        def epoch(self, epoch: int) -> list[Batch]:
            return [batch.select(batch.task == 1) for batch in super().epoch(epoch)]

    before = covered_scorer()
    after = trained(OfRec(), tasks=("rec",), subspace={"task_subspaces": False, "rank": 4})
    assert not torch.equal(before.up.weight, after.up.weight)


@pytest.mark.slow
@pytest.mark.parametrize("passes", ["counted", "three"])
def test_two_processes_train_as_one_with_both_batches(tmp_path: Path, passes: str) -> None:
    """Tasks in unlike numbers, one process without search rows: the same mean gradients, bases and weights."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "tests.training.covered", str(tmp_path / "weights"), passes]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(f"{tmp_path / 'weights'}.{rank}") for rank in (0, 1))
    alone = covered_scorer()
    train(alone, Uneven(steps=6), together(passes, accumulation=2), seed=0)
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)


def test_optimizer_is_gems_over_what_is_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[GEMS] = []
    start = GEMS.__init__

    def spy(self: GEMS, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(GEMS, "__init__", spy)
    scorer = trained(weight_decay=0.3)
    (gems,) = made
    groups = [(g["subspace"], g["weight_decay"], len(g["params"])) for g in gems.param_groups]
    assert groups == [(True, 0.3, 3), (False, 0.3, 1), (False, 0.0, 3)]
    assert all(a is b.weight for a, b in zip(gems.param_groups[0]["params"], scorer.covered().values(), strict=True))
