"""A model trained by `accelerate launch` in two processes is the one that a single process trains with double batches.

A loader draws negatives batch by batch, and a loss is the mean over a batch, so that twice the `batch_size` would be
other negatives and other weights of the tasks. What two processes do exactly is the step of one process on two batches,
`training.accumulation=2`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.report.stored import CLOCKS
from unisr.config import RunConfig
from unisr.report import store
from unisr.report.store import Run

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "unisr")  # fmt: skip
TRAINING = {"batch_size": 64, "epoch_examples": 512, "epochs": 3}
"""Eight batches an epoch: four for each process, and none left over."""


def trained(monkeypatch: pytest.MonkeyPatch, folder: Path, *module: str, accumulation: int) -> Run:
    """The run that the command stores; each of its processes must name the one folder."""
    training = {**TRAINING, "accumulation": accumulation}
    config = RunConfig(method="JSR", dataset="synthetic", preset="quick", training=training)
    options = [f"--set=training.{name}={value}" for name, value in training.items()]
    world = ("--data", "synthetic", "--preset", "quick", "--device", "cpu", "--json")
    monkeypatch.setenv("UNISR_RESULTS", str(folder))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNISR_PROGRESS": "0"}
    command = [sys.executable, "-m", *module, "run", "JSR", *world, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    os.environ["UNISR_RESULTS"] = str(folder)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {Path(result["folder"]) for result in told} == {store.folder_of(config)}
    (run,) = store.runs()
    assert [path.name for path in run.folder.parent.iterdir()] == [run.folder.name], "no second draft, no checkpoint"
    return run


def test_two_processes_train_as_one_with_the_double_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = trained(monkeypatch, tmp_path / "alone", "unisr", accumulation=2)
    pair = trained(monkeypatch, tmp_path / "pair", *LAUNCH, accumulation=1)
    assert set(pair.losses) == set(alone.losses) >= {"loss", "loss_rec", "loss_src", "validation_rec_NDCG@5"}
    assert pair.losses["loss"].iloc[-1] < pair.losses["loss"].iloc[0]
    assert pair.losses["steps"].tolist() == [4, 4, 4] and pair.losses["examples"].tolist() == [512] * 3
    for column in set(pair.losses) - {*CLOCKS}:
        np.testing.assert_allclose(pair.losses[column], alone.losses[column], rtol=1e-5, err_msg=column)
    weights, others = load_file(pair.checkpoint), load_file(alone.checkpoint)
    for name, value in weights.items():
        np.testing.assert_allclose(value.numpy(), others[name].numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    assert (pair.per_query["rank"] == alone.per_query["rank"]).mean() > 0.99
