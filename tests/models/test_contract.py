"""The contract itself: it covers every registered method, and it can fail."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr import registry
from unisr.data.batches import Batch
from unisr.data.schema import Dataset
from unisr.models.reference import Popularity


def test_every_method_has_a_contract_class() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.models.{path.stem}")
    covered = {cls.method for cls in ScorerContract.__subclasses__() if hasattr(cls, "method")}
    assert covered == set(registry.methods())


def test_the_order_of_methods_does_not_depend_on_what_is_imported_first() -> None:
    code = "import unisr.models.joint.gensr; from unisr import registry; print(*registry.methods(), sep=',')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().split(",") == list(registry.methods())
    families = [registry.FAMILIES.index(method.card.family) for method in registry.methods().values()]
    assert families == sorted(families)


class Relative(Popularity):
    """Breaks the contract: scores are relative to the row's best candidate."""

    def score(self, batch: Batch) -> Tensor:
        found = super().score(batch)
        return found - found.max(1, keepdim=True).values


class Peeking(Popularity):
    """Breaks its card: reads the user id and the padding of histories."""

    @property
    def history_length(self) -> tuple[int, int]:
        return (3, 3)

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + batch.user.unsqueeze(1) + batch.items.float().mean(1, keepdim=True)


class TestCanFail:
    @pytest.mark.parametrize(
        "broken, test",
        [
            (Relative, "test_a_score_does_not_depend_on_the_other_candidates"),
            (Peeking, "test_longer_left_padding_changes_nothing"),
            (Peeking, "test_padded_cells_and_labels_are_not_read"),
        ],
    )
    def test_broken_scorers_are_caught(self, world: Dataset, broken: type[Popularity], test: str) -> None:
        setting = Setting(world, broken)
        scorer = setting.build()
        batch = setting.batch(scorer, rows=setting.dataset.rows(0, 1)[:8])
        arguments = {"setting": setting, "scorer": scorer, "batch": batch}
        contract = ScorerContract()
        method = getattr(contract, test)
        wanted = {k: v for k, v in arguments.items() if k in method.__annotations__}
        with pytest.raises(AssertionError):
            method(**wanted)

    def test_an_undeclared_signal_is_caught(self, world: Dataset) -> None:
        setting = Setting(world, Peeking)
        scorer = setting.build()
        with pytest.raises(AssertionError, match="user id"):
            ScorerContract().test_the_card_says_which_signals_of_the_batch_are_read(
                setting, scorer, setting.batch(scorer), "user id"
            )

    def test_weights_that_differ_are_caught(self, world: Dataset) -> None:
        with pytest.raises(AssertionError):
            ScorerContract().assert_same(torch.zeros(2), torch.tensor([0.0, 1e-3]))
