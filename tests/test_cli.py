"""The command line: what it prints, what it refuses and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from unisr import registry
from unisr.cli import app
from unisr.config import RunConfig
from unisr.report import store

WORLD = ("--data", "synthetic", "--preset", "quick")


@pytest.fixture(autouse=True)
def _own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("UNISR_DEVICE", "cpu")
    yield


def unisr(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_methods_and_datasets_list_everything() -> None:
    cards = json.loads(unisr("methods", "--json").stdout)
    assert [c["name"] for c in cards] == list(registry.methods())
    assert all(c["family"] and c["paper"] and set(c["tasks"]) <= {"rec", "src"} for c in cards)
    names = {d["name"] for d in json.loads(unisr("datasets", "--json").stdout)}
    assert {"synthetic", "ml-100k"} <= names
    for command, known in (("methods", registry.methods()), ("datasets", names)):
        text = unisr(command).stdout
        assert all(name in text for name in known)


def test_prepare_tells_counts() -> None:
    assert "#User 120" in unisr("prepare", "synthetic").stdout
    assert json.loads(unisr("prepare", "synthetic", "--json").stdout)["counts"]["#Item"] == 150


def test_run_in_a_process_ends_with_one_json_object() -> None:
    command = [sys.executable, "-m", "unisr", "run", "popularity", *WORLD, "--seed", "3", "--json"]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    config = RunConfig(method="Popularity", dataset="synthetic", preset="quick", seed=3)
    assert result["config_id"] == config.config_id
    assert (result["dataset"], result["method"], result["preset"], result["seed"]) == (
        "synthetic", "Popularity", "quick", 3,
    )  # fmt: skip
    assert set(result["metrics"]) == {"rec", "src"}
    assert all(set(row) == {"Recall@5", "Recall@10", "NDCG@5", "NDCG@10", "MRR"} for row in result["metrics"].values())
    assert "99 uniform negatives" in result["protocol"]
    assert result["seconds"] > 0 and result["peak_memory_mb"] > 0
    assert store.find(config) is not None


def test_settings_reach_the_config_and_the_text_is_readable() -> None:
    options = ("--set", "model.width=8", "--set", "training.epochs=2", "--set", "training.clip_norm=none")
    done = unisr("run", "LightGCN", *WORLD, *options, "--candidates", "popularity", "--histories", "released")
    assert done.exit_code == 0, done.stderr
    (made,) = (run for run in store.runs() if run.config.candidates == "popularity")
    assert (made.config.model.width, made.config.training.epochs, made.config.training.clip_norm) == (8, 2, None)
    assert (made.config.candidates, made.config.histories) == ("popularity", "released")
    for expected in ("LightGCN on synthetic", made.config.config_id, "NDCG@10", "recommendation", "2 epochs"):
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "lightgnc", *WORLD), 1, "did you mean LightGCN"),
        (("run", "LightGCN", "--data", "sinthetic"), 1, "did you mean synthetic"),
        (("prepare", "ml100k"), 1, "did you mean ml-100k"),
        (("run", "LightGCN", *WORLD, "--set", "model.widht=4"), 1, "did you mean width"),
        (("run", "LightGCN", *WORLD, "--set", "training.epoch=4"), 1, "epochs"),
        (("run", "LightGCN", *WORLD, "--mode", "only-cached"), 1, "no stored run"),
        (("run", "LightGCN", *WORLD, "--set", "model.width=0"), 2, "greater than or equal to 1"),
        (("run", "LightGCN", *WORLD, "--set", "training.schedule=step"), 2, "'cosine' or 'plateau'"),
        (("run", "LightGCN", *WORLD, "--set", "width=4"), 2, "model.FIELD=VALUE"),
        (("run", "LightGCN", *WORLD, "--seed", "-1"), 2, "--seed"),
        (("run", "LightGCN", "--preset", "tiny"), 2, "quick"),
        (("run", "LightGCN", "--candidates", "easy"), 2, "popularity"),
        (("run",), 2, "METHOD"),
        (("rum",), 2, "rum"),
        (("bench", "models"), 2, "ranking"),
    ],
)
def test_errors_say_what_is_allowed(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = unisr(*arguments)
    assert done.exit_code == code
    assert message.lower() in done.stderr.lower() and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_reproduce_and_report_pass_on_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    outcome = SimpleNamespace(failures=[])
    fake = ModuleType("unisr.reproduce")
    fake.reproduce = lambda preset, **options: asked.append((preset, options)) or outcome  # type: ignore[attr-defined]
    fake.report = lambda *, readme: asked.append(readme) or Path("index.html")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unisr.reproduce", fake)
    assert unisr("reproduce", "--preset", "quick", "--only", "00,02", "--seeds", "2", "--jobs", "1").exit_code == 0
    options = {"dataset": "ml-100k", "only": ["00", "02"], "seeds": 2, "jobs": 1, "methods": None, "runs_only": False}
    assert asked == [("quick", options | {"study": None, "cluster": None})]
    assert unisr("reproduce", "--study", "sensitivity", "--cluster", "10.0.0.1:8786").exit_code == 0
    assert (asked[-1][1]["study"], asked[-1][1]["cluster"]) == ("sensitivity", "10.0.0.1:8786")
    assert "index.html" in unisr("report", "--readme").stdout and asked[-1] is True
    outcome.failures.append("one")
    assert unisr("reproduce").exit_code == 1


def test_bench_hands_its_options_to_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("unisr.benchmarks.data")
    seen: list[list[str]] = []
    fake.main = lambda: seen.append(sys.argv[1:])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unisr.benchmarks.data", fake)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert unisr("bench", "data", "--events", "1000").exit_code == 0
    assert seen == [["--events", "1000"]]
