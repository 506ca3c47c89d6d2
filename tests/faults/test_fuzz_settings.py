"""Generated settings and command lines: each is refused by a message, or is exactly what was asked for."""

from __future__ import annotations

import json
import math
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

import unisr
from tests.faults.fuzz import EXAMPLES, NUMBERS, TEXTS, VALUES, fuzz, spoiled
from tests.report.stored import config as stored_config
from tests.report.stored import saved
from unisr import registry
from unisr.cli import app
from unisr.config import PRESETS, RunConfig, TrainConfig
from unisr.errors import StoreError, UnisrError
from unisr.report import store
from unisr.report.store import Run

examples = pytest.mark.parametrize("examples", EXAMPLES)
METHODS = list(registry.methods())
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
FIELDS = {field for method in registry.methods().values() for field in method.Config.model_fields}
NAMES = st.sampled_from([*TrainConfig.model_fields, *sorted(FIELDS)])
PART = st.dictionaries(NAMES | TEXTS, st.integers(0, 9) | st.floats(0, 1) | VALUES, max_size=2)
GIVEN = st.fixed_dictionaries(
    {"method": st.sampled_from(METHODS) | SCALARS},
    optional={"dataset": st.sampled_from(["synthetic", "ml-100k"]) | SCALARS, "seed": SCALARS,
              "training": PART | VALUES,
              "preset": st.sampled_from(PRESETS) | SCALARS, "model": PART | VALUES, "max_users": SCALARS,
              "candidates": st.sampled_from(["uniform", "full"]) | SCALARS, "more": VALUES},
)  # fmt: skip


def same(value: Any, given: Any) -> bool:
    """Whether a field says what was given: the value, or a text or number that spells it."""
    if isinstance(value, tuple) and isinstance(given, list):
        return len(value) == len(given) and all(map(same, value, given))
    if isinstance(value, int | float) and not isinstance(value, bool) and not isinstance(given, bool):
        return isinstance(given, int | float | str) and float(value) == float(given)
    return value == given


@examples
def test_run_configs(examples: int) -> None:
    def check(given: dict[str, Any]) -> None:
        try:
            made = RunConfig.model_validate(given)
        except (UnisrError, ValidationError):
            return
        for part, fields in (("training", given.get("training")), ("model", given.get("model"))):
            for name, value in (fields or {}).items():
                own = getattr(getattr(made, part), name)
                assert same(own, value) or isinstance(value, dict), (part, name, value, own)
        dump = json.loads(json.dumps(made.model_dump(mode="json"), allow_nan=False))
        again = RunConfig.model_validate(dump)
        assert again == made and again.config_id == made.config_id

    fuzz(GIVEN, check, examples)


@examples
def test_training_settings_in_json(examples: int) -> None:
    whole = st.dictionaries(st.sampled_from(list(TrainConfig.model_fields)), SCALARS, max_size=4).map(
        lambda given: json.dumps(given).encode()
    )

    def check(text: bytes) -> None:
        try:
            made = TrainConfig.model_validate_json(text)
        except ValidationError:
            return
        for name, value in json.loads(text).items():
            assert same(getattr(made, name), value), (name, value)
        assert all(math.isfinite(value) for value in made.model_dump().values() if isinstance(value, float))

    fuzz(whole | spoiled(whole), check, examples)


@examples
def test_stored_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    run = saved([1, 2])
    path, whole = run.folder / "config.json", (run.folder / "config.json").read_bytes()
    stored = json.loads(whole)
    changed = st.tuples(st.sampled_from([*stored["config"], "protocol_version", "config", "more"]), VALUES).map(
        lambda pair: json.dumps(stored | {pair[0]: pair[1]} if pair[0] in stored else
                                stored | {"config": stored["config"] | {pair[0]: pair[1]}}).encode())  # fmt: skip

    def check(text: bytes) -> None:
        path.write_bytes(text)
        try:
            assert Run(run.folder).config == stored_config()
        except StoreError as error:
            assert run.folder.name in str(error)

    fuzz(changed | spoiled(st.just(whole)) | VALUES.map(lambda value: json.dumps(value).encode()), check, examples)


OPTIONS = ["--data", "--preset", "--seed", "--candidates", "--histories", "--max-users", "--set", "--mode", "--device",
           "--max-steps", "--json", "--only", "--methods", "--seeds", "--jobs", "--runs-only", "--study", "--trials",
           "--variants", "--from", "--readme", "--help", "-d", "-p", "--"]  # fmt: skip
WORDS = ["run", "prepare", "reproduce", "tune", "report", "bench", "methods", "datasets", "SASRec", "GenSR",
         "synthetic", "quick", "ranking", "00,02", "99", "training.epochs=3", "model.width=x",
         "training.subspace.rank=4",
         "training.subspace.rank.more=4", "model.=1", 'training.tasks=["rec"]', "training.tasks=[[]]",
         "ablation"]  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunConfig]:
    """The configs that commands would work on; the work itself is left out."""
    from unisr.data import sources
    from unisr.report import notebooks
    from unisr.reproduce import plan

    found: list[RunConfig] = []

    def run(config: RunConfig, **options: Any) -> None:
        found.append(config)
        raise UnisrError("not run")

    def reproduce(preset: str, **options: Any) -> None:
        for name in options["only"] or []:
            notebooks.find(name)
        plan(preset, dataset=options["dataset"], seeds=min(options["seeds"], 2), methods=options["methods"],
             study=options["study"])  # fmt: skip
        raise UnisrError("not reproduced")

    def tune(methods: list[str], **options: Any) -> None:
        for name in methods:
            RunConfig(method=name, **{key: options[key] for key in ("dataset", "preset", "seed")})
        raise UnisrError("not tuned")

    def prepare(name: str, folder: Path | None = None) -> None:
        sources.source(name)
        raise UnisrError("not prepared")

    class Benchmark:
        main = staticmethod(lambda: None)

    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    # Made anew for every call otherwise, which takes longer than the call.
    monkeypatch.setattr("typer.testing._get_command", lru_cache(typer.testing._get_command))
    monkeypatch.setattr(sys, "argv", ["unisr"])
    monkeypatch.setattr(unisr, "run", run)
    monkeypatch.setattr("unisr.data.load_dataset", prepare)
    monkeypatch.setattr("unisr.reproduce.reproduce", reproduce)
    monkeypatch.setattr("unisr.reproduce.report", lambda **options: tmp_path)
    monkeypatch.setattr("unisr.tuning.tune_all", tune)
    monkeypatch.setattr("unisr.benchmarks.dry_run.dry_run", lambda config, *_, **__: run(config))
    monkeypatch.setitem(sys.modules, "unisr.benchmarks.ranking", Benchmark)
    return found


@examples
def test_command_lines(asked: list[RunConfig], examples: int) -> None:
    word = st.sampled_from(WORDS) | TEXTS | st.integers(-2, 9).map(str)
    option = st.tuples(st.sampled_from(OPTIONS), word) | st.tuples(word) | st.tuples(st.sampled_from(OPTIONS))
    run = st.tuples(st.just("run"), st.sampled_from(METHODS), st.just("--seed"), st.integers(-1, 9).map(str),
                    st.just("--set"), word)  # fmt: skip
    start = st.sampled_from([("run", "SASRec"), ("reproduce",), ("tune",), ("prepare",)]) | st.tuples(word) | run
    lines = st.tuples(start, st.lists(option, max_size=4)).map(
        lambda line: [*line[0], *(part for given in line[1] for part in given)]
    )

    def check(line: list[str]) -> None:
        asked.clear()
        done = CliRunner().invoke(app, line)
        said = done.output
        assert done.exit_code in (0, 1, 2) and isinstance(done.exception, SystemExit | None), (line, done.exception)
        assert "Traceback" not in said and (done.exit_code == 0 or said.strip()), line
        if asked and line.count("--seed") == 1:
            assert asked[0].seed == int(line[line.index("--seed") + 1])
        if asked:
            assert store.folder_of(asked[0]).name

    fuzz(lines, check, examples)
