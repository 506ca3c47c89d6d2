"""What `reproduce` plans, and that it goes from nothing to an index and back from stored runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from unisr import registry
from unisr.config import RunConfig
from unisr.data.candidates import KINDS
from unisr.errors import UnknownNameError
from unisr.report import notebooks, store
from unisr.reproduce import LONG, plan, reproduce
from unisr.variants import STUDIES


def test_plan_has_every_method_and_puts_requirements_first() -> None:
    jobs = plan("quick", dataset="synthetic", seeds=2)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(jobs) and {job.payload.seed for job in jobs} == {0, 1}
    methods = {job.payload.method for job in jobs if job.name == f"{job.payload.method} seed {job.payload.seed}"}
    assert methods == set(registry.methods()) and {s.method for s in STUDIES.values()} <= methods
    for job in jobs:
        assert all(names.index(needed) < names.index(job.name) for needed in job.needs)
    family = [registry.method(job.payload.method).card.family for job in jobs[: len(jobs) // 2]]
    assert "reference" not in family[family.count("reference") :]


def test_plan_of_named_methods_adds_what_they_read() -> None:
    jobs = plan("quick", dataset="synthetic", methods=["gensr", "SASRec"])
    assert {job.payload.method for job in jobs} == {"GenSR", "SASRec", "LightGCN"}


def test_payloads_are_the_same_configs_in_the_process_of_a_job() -> None:
    configs = [job.payload for preset in ("quick", "full") for job in plan(preset, dataset="ml-100k")]
    assert len(configs) > 100
    for config in configs:
        assert TypeAdapter(RunConfig).validate_python(to_jsonable_python(config)).config_id == config.config_id


@pytest.mark.parametrize(
    ("options", "message"), [({"only": ["99"]}, "unknown notebook"), ({"methods": ["GenSA"]}, "GenSR")]
)
def test_an_unknown_name_stops_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, list[str]], message: str
) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    with pytest.raises(UnknownNameError, match=message):
        reproduce("quick", dataset="synthetic", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.notebook
def test_reproduce_makes_an_index_and_reuses_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    options = {"dataset": "synthetic", "only": ["01"], "jobs": 1, "methods": ["Popularity", "Lexical"]}
    first = reproduce("quick", **options)  # type: ignore[arg-type]
    assert not first.failures, str(first)
    assert first.index and "Executed notebooks" in first.index.read_text(encoding="utf-8")
    assert (tmp_path / "synthetic" / "quick" / "notebooks" / "01_datasets.html").exists()
    made = {run.folder: run.folder.stat().st_mtime_ns for run in store.runs()}
    assert len(made) == 2 * len(KINDS)
    assert (tmp_path / "synthetic" / "quick" / "tables" / "search_hard.md").exists()
    again = reproduce("quick", **options)  # type: ignore[arg-type]
    assert {run.folder: run.folder.stat().st_mtime_ns for run in store.runs()} == made
    assert [o.name for o in again.outcomes] == ["Popularity seed 0", "Lexical seed 0", "01_datasets", "report"]


def test_long_notebooks_are_there() -> None:
    assert {source.stem for source in notebooks.sources()} >= set(LONG)


def test_runs_only_stores_runs_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    summary = reproduce("quick", dataset="synthetic", jobs=1, methods=["Popularity"], runs_only=True)
    assert not summary.failures and summary.index is None
    assert [p.name for p in tmp_path.iterdir()] == ["runs"] and len(store.runs()) == len(KINDS)


def test_a_failing_notebook_is_told_and_the_report_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Path:
        raise notebooks.NotebookError("01_datasets.ipynb, cell 3: KeyError")

    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    monkeypatch.setattr(notebooks, "execute", broken)
    summary = reproduce("quick", dataset="synthetic", only=["01"], jobs=1, methods=["Popularity"])
    assert [o.name for o in summary.failures] == ["01_datasets"]
    assert summary.index and "FAILED 01_datasets: 01_datasets.ipynb, cell 3: KeyError" in str(summary)
