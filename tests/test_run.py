"""From config to stored run: reuse, required methods, interruption, locks, devices."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import unisr
from unisr import registry
from unisr import run as run_function
from unisr.config import ModelConfig, RunConfig, TrainConfig
from unisr.data import load_dataset
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.errors import ConfigError, StoreError
from unisr.evaluation import evaluate
from unisr.lock import exclusive
from unisr.models.base import Scorer, Tables
from unisr.paths import data_dir
from unisr.registry import Card
from unisr.report import store
from unisr.run import choose_device, load_scorer, prepare_inputs

MODULE = sys.modules["unisr.run"]
RANKS = ["task", "user", "event", "query", "rank", "ties"]


class Reader(Scorer):
    """Ranks by the product of a learned vector and LightGCN's item table."""

    card = Card(
        name="Reader", family="recommendation", tasks=("rec",), paper="none", signals=("CF table",), loss="log",
        requires=("LightGCN",),
    )  # fmt: skip
    presets = {"quick": (TrainConfig(epochs=3, batch_size=256, learning_rate=0.05), ModelConfig())}
    history_length = (0, 0)

    def __init__(self, config: ModelConfig, corpus: Corpus, *, tables: Tables | None = None) -> None:
        super().__init__(config, corpus, tables=tables)
        self.register_buffer("items", self.tables["LightGCN"]["item_propagated"])
        self.weight = nn.Parameter(torch.randn(self.items.shape[1]))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"rec": -(self.score(batch).log_softmax(1) * batch.labels).sum(1).mean()}

    def score(self, batch: Batch) -> Tensor:
        return self.items[batch.candidates] @ self.weight


@pytest.fixture(autouse=True)
def _own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of each test in a folder of its own; data are shared."""
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("UNISR_DEVICE", "cpu")
    registry.methods()
    monkeypatch.setitem(registry._methods, "Reader", Reader)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the methods trained, in order."""
    names: list[str] = []
    real = MODULE.train

    def counting(scorer: Scorer, *args: Any, **kwargs: Any) -> Any:
        names.append(scorer.card.name)
        return real(scorer, *args, **kwargs)

    monkeypatch.setattr(MODULE, "train", counting)
    return names


def config(method: str = "LightGCN", **fields: Any) -> RunConfig:
    return RunConfig(**{"method": method, "dataset": "synthetic", "preset": "quick", **fields})


def test_the_public_name_is_the_function() -> None:
    assert unisr.run is run_function and callable(unisr.run)
    assert all(hasattr(unisr, name) for name in unisr.__all__)


def test_stored_run_is_reused(trained: list[str]) -> None:
    first = unisr.run(config())
    again = unisr.run(config())
    assert trained == ["LightGCN"]
    assert again.folder == first.folder and again.metrics == first.metrics
    assert first.cost.epochs == len(first.losses) > 0
    assert first.cost.examples == first.losses["examples"].sum() > first.cost.steps > 0
    assert first.cost.best_epoch == first.losses["validation_rec_NDCG@5"].idxmax() + 1
    assert first.cost.seconds.total > first.cost.seconds.train > 0 and first.cost.peak_memory_mb > 1
    assert [p.name for p in first.folder.parent.iterdir()] == [first.folder.name], "checkpoints and lock are removed"


def test_overwrite_trains_again_with_the_same_ranks(trained: list[str]) -> None:
    first = unisr.run(config()).per_query
    again = unisr.run(config(), mode="overwrite").per_query
    assert trained == ["LightGCN"] * 2
    pd.testing.assert_frame_equal(first, again)


def test_only_cached_never_trains(trained: list[str]) -> None:
    with pytest.raises(StoreError, match="no stored run.*reuse"):
        unisr.run(config(), mode="only-cached")
    assert trained == []
    made = unisr.run(config())
    assert unisr.run(config(), mode="only-cached").folder == made.folder
    with pytest.raises(ConfigError, match="reuse, overwrite, only-cached"):
        unisr.run(config(), mode="cached")  # type: ignore[arg-type]


def test_method_without_parameters_is_ranked_and_has_no_weights(trained: list[str]) -> None:
    made = unisr.run(config("Popularity"))
    assert trained == [] and made.checkpoint is None and set(made.metrics) == {"rec", "src"}
    assert load_scorer(made).card.name == "Popularity"


def test_loaded_scorer_ranks_as_stored() -> None:
    made = unisr.run(config())
    scorer = load_scorer(made)
    table = evaluate(scorer, prepare_inputs(made.config).evaluation(scorer))
    pd.testing.assert_frame_equal(table[RANKS], made.per_query[RANKS])
    assert not scorer.training


def test_required_method_is_run_first_and_its_tables_are_read(trained: list[str]) -> None:
    made = unisr.run(config("Reader", seed=4, max_users=60))
    assert trained == ["LightGCN", "Reader"]
    required = unisr.run(config(seed=4, max_users=60), mode="only-cached")
    assert torch.equal(load_scorer(made).items, load_scorer(required).export()["item_propagated"])


def test_required_run_without_weights_is_made_again(trained: list[str]) -> None:
    required = unisr.run(config())
    (required.folder / store.WEIGHTS).unlink()
    with pytest.raises(StoreError, match="overwrite"):
        load_scorer(unisr.run(config()))
    unisr.run(config("Reader"))
    assert trained == ["LightGCN", "LightGCN", "Reader"]
    assert (required.folder / store.WEIGHTS).exists()


def test_other_candidates_are_ranked_with_the_same_weights(trained: list[str]) -> None:
    hard = unisr.run(config("Reader", candidates="hard"))
    assert trained == ["LightGCN", "Reader"] and hard.checkpoint is None
    usual = unisr.run(config("Reader"), mode="only-cached")
    assert torch.equal(load_scorer(hard).weight, load_scorer(usual).weight)
    assert hard.losses.equals(usual.losses) and hard.cost.seconds.train == usual.cost.seconds.train
    assert hard.environment.candidates_hash != usual.environment.candidates_hash
    assert hard.per_query["event"].equals(usual.per_query["event"])
    assert not hard.per_query["rank"].equals(usual.per_query["rank"])
    scorer = load_scorer(hard)
    table = evaluate(scorer, prepare_inputs(hard.config).evaluation(scorer))
    pd.testing.assert_frame_equal(table[RANKS], hard.per_query[RANKS])
    unisr.run(config("Reader", candidates="popularity"))
    assert trained == ["LightGCN", "Reader"]


def test_other_candidates_need_the_run_that_trained(trained: list[str]) -> None:
    hard = unisr.run(config(candidates="hard"))
    usual = unisr.run(config(), mode="only-cached")
    (usual.folder / store.WEIGHTS).unlink()
    unisr.run(config(candidates="hard"), mode="overwrite")
    assert trained == ["LightGCN", "LightGCN"], "weights that are gone are trained again"
    shutil.rmtree(usual.folder)
    with pytest.raises(StoreError, match="candidates='uniform'"):
        load_scorer(hard)


def test_interrupted_run_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = unisr.run(config(), mode="overwrite")
    expected = load_scorer(undisturbed).state_dict()

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MODULE, "_store", interrupted)
        unisr.run(config(), mode="overwrite")
    partial = undisturbed.folder.with_name(f"{undisturbed.folder.name}.partial")
    assert [p.name for p in partial.iterdir()] == [f"epoch-{undisturbed.cost.epochs:04d}"]
    for path in undisturbed.folder.iterdir():
        path.unlink()
    undisturbed.folder.rmdir()
    steps: list[Batch] = []
    monkeypatch.setattr(registry.method("LightGCN"), "losses", lambda self, batch: steps.append(batch))
    resumed = unisr.run(config())
    assert not steps and not partial.exists()
    assert all(torch.equal(value, expected[name]) for name, value in load_scorer(resumed).state_dict().items())


def test_what_a_process_left_that_was_killed_after_storing_is_cleared_away() -> None:
    made = unisr.run(config("Popularity"))
    for kind in ("partial", "lock"):
        left = made.folder.with_name(f"{made.folder.name}.{kind}")
        left.mkdir() if kind == "partial" else left.touch()
        assert unisr.run(config("Popularity")).folder == made.folder and not left.exists(), kind


def test_the_lock_beside_tables_is_discarded_unless_it_is_held() -> None:
    """Left by a process that was killed between storing the tables and giving the lock back."""
    load_dataset("synthetic")
    lock = data_dir() / "synthetic" / "synthetic.lock"
    with exclusive(lock):
        load_dataset("synthetic")
        assert lock.exists()
    lock.write_text("1")
    load_dataset("synthetic")
    assert not lock.exists()


def test_checkpoint_of_other_code_is_refused_until_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.folder_of(config())
    partial = folder.with_name(f"{folder.name}.partial")
    scorer = MODULE.build_scorer(config(), "cpu")
    loader = prepare_inputs(config()).training(scorer)
    MODULE.train(scorer, loader, TrainConfig(epochs=1), seed=0, checkpoints=partial, owner="other code")
    with pytest.raises(StoreError, match="other code.*delete"):
        unisr.run(config())
    assert unisr.run(config(), mode="overwrite").cost.epochs > 1


def test_inputs_are_shared_and_independent_of_the_seed() -> None:
    first, second = prepare_inputs(config(seed=0)), prepare_inputs(config("Popularity", seed=1))
    assert first.dataset is second.dataset and first.corpus is second.corpus
    assert first.histories is second.histories and first.candidates is second.candidates
    assert prepare_inputs(config(max_users=50)).dataset.n_users == 50


def test_validation_users_bound_validation_only() -> None:
    bounded = config(training={"validation_users": 20})
    scorer = MODULE.build_scorer(bounded, "cpu")
    inputs = prepare_inputs(bounded)
    assert len(inputs.evaluation(scorer, MODULE.Split.VALIDATION)["rec"].rows) == 20
    assert len(inputs.evaluation(scorer)["rec"].rows) > 20


def test_device_by_argument_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == "cpu" and choose_device("cuda") == "cuda"
    monkeypatch.delenv("UNISR_DEVICE")
    assert choose_device() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == "cpu"
    with pytest.raises(ConfigError, match="no GPU"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="allowed: cpu, cuda"):
        choose_device("tpu")


def test_two_callers_train_once(trained: list[str]) -> None:
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(unisr.run(config()).metrics)) for _ in range(2)]
    prepare_inputs(config())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trained == ["LightGCN"] and len(found) == 2 and found[0] == found[1]


def test_lock_excludes_and_names_its_holder(tmp_path: Path) -> None:
    path, order = tmp_path / "thing.lock", []

    def second() -> None:
        with exclusive(path):
            order.append("second")

    with exclusive(path):
        assert path.read_text() == str(os.getpid())
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=1.0)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and not path.exists()


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "thing.lock"
    code = (
        "import sys, time, pathlib; from unisr.lock import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    root = Path(unisr.__file__).resolve().parent.parent
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    assert path.read_text() == str(holder.pid)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    with exclusive(path):
        assert path.read_text() == str(os.getpid())


def test_importing_unisr_loads_no_language_model_library() -> None:
    """transformers alone takes seconds, which `unisr methods` or a notebook's first cell need not pay."""
    code = "import sys, unisr, unisr.cli; print('transformers' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
