"""A training that is killed and resumed ends where an undisturbed one ends, bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.report.stored import CLOCKS
from tests.training.tiny import TinyLoader, tiny_scorer, train_with_checkpoints
from unisr.config import TrainConfig
from unisr.errors import StoreError
from unisr.random import generator
from unisr.training import checkpoint, train

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = 3


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.tiny", str(folder)]
    environment = {**os.environ, "UNISR_PROGRESS": "0"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return process


def without_clocks(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    """SIGKILL at random moments: in a batch, in validation, in the middle of writing a checkpoint."""
    rng = generator(time.time_ns(), "kills")
    checkpoints = tmp_path / "checkpoints"
    for _ in range(KILLS):
        process = start(tmp_path)
        assert process.stdout
        for _ in range(rng.integers(1, 4)):
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert list(checkpoints.glob("epoch-*")) and not (tmp_path / "log.json").exists()
    assert start(tmp_path).wait() == 0

    scorer, log = train_with_checkpoints(tmp_path / "undisturbed", pause=0.0)
    resumed = load_file(tmp_path / "weights.safetensors")
    assert resumed.keys() == scorer.state_dict().keys()
    for name, value in scorer.state_dict().items():
        assert torch.equal(value, resumed[name]), name
    assert without_clocks(json.loads((tmp_path / "log.json").read_text())) == without_clocks(log.rows)


def test_every_epoch_can_be_resumed_from(tmp_path: Path) -> None:
    """Stop after each epoch by an exception: the log and weights stay those of one training."""

    class Stop(Exception): ...

    def stop(row: dict[str, float]) -> None:
        raise Stop

    config = TrainConfig(epochs=3, schedule="linear")
    whole, pieces = tiny_scorer(), tiny_scorer()
    undisturbed = train(whole, TinyLoader(), config, seed=1)
    for _ in range(config.epochs):
        with pytest.raises(Stop):
            train(pieces, TinyLoader(), config, seed=1, checkpoints=tmp_path, on_epoch=stop)
        pieces = tiny_scorer()
    log = train(pieces, TinyLoader(), config, seed=1, checkpoints=tmp_path)
    assert without_clocks(log.rows) == without_clocks(undisturbed.rows)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in pieces.state_dict().items())


def test_only_the_last_checkpoint_is_kept_and_frozen_parameters_are_not_in_it(tmp_path: Path) -> None:
    train(tiny_scorer(), TinyLoader(), TrainConfig(epochs=3), seed=1, checkpoints=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-0003"]
    weights = load_file(tmp_path / "epoch-0003" / "weights.safetensors")
    assert "items.weight" in weights and "norm.running_mean" in weights and "frozen" not in weights


def test_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".writing").mkdir()
    (tmp_path / ".writing" / "state.json").write_text("{")
    assert checkpoint.load(tmp_path, "me") is None
    assert len(train(tiny_scorer(), TinyLoader(), TrainConfig(epochs=1), seed=1, checkpoints=tmp_path).rows) == 1


def test_checkpoint_of_another_owner_is_refused_with_a_remedy(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1)
    train(tiny_scorer(), TinyLoader(), config, seed=1, checkpoints=tmp_path, owner="config a code 1")
    with pytest.raises(StoreError, match="config a code 1.*config b code 1.*delete.*overwrite"):
        train(tiny_scorer(), TinyLoader(), config, seed=1, checkpoints=tmp_path, owner="config b code 1")


def test_weights_of_another_model_are_refused() -> None:
    state = checkpoint.trained_state(tiny_scorer())
    del state["items.weight"]
    with pytest.raises(StoreError, match="items.weight"):
        checkpoint.load_trained(tiny_scorer(), state)


@pytest.mark.slow
def test_two_processes_agree_and_resume_exactly(tmp_path: Path) -> None:
    """Each process ends with the weights of the other; a training stopped after 2 of 4 epochs goes on as one."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    stopped = together(pieces, epochs=2)
    found = [together(pieces, epochs=4), together(whole, epochs=4)]
    assert len(found[0]) == 1 and found[0] == found[1] != stopped


def together(folder: Path, *, epochs: int) -> set[str]:
    """Train in two processes and return the distinct digests of their final weights."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "tests.training.pair", str(folder), str(epochs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digests = re.findall(r"weights ([0-9a-f]{64})", done.stdout)
    assert len(digests) == 2
    return set(digests)
