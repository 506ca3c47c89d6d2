"""The main job: run every method, execute the notebooks, write the report. Resumable, since stored runs are reused."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from unisr import registry
from unisr.config import Preset, RunConfig
from unisr.data.candidates import KINDS
from unisr.errors import StoreError
from unisr.jobs import Job, Outcome, clock, run_jobs, timed
from unisr.report import notebooks, store
from unisr.report.publish import report
from unisr.variants import VARIANTS, variants

__all__ = ["Summary", "plan", "report", "reproduce"]


@dataclass
class Summary:
    """Everything `reproduce` did."""

    outcomes: list[Outcome] = field(default_factory=list)
    index: Path | None = None
    seconds: float = 0.0

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failed]

    def __str__(self) -> str:
        done = len(self.outcomes) - len(self.failures)
        lines = [f"{done} of {len(self.outcomes)} done in {clock(self.seconds)}"]
        lines += [f"FAILED {o.name}: {o.error}" for o in self.failures]
        return "\n".join([*lines, f"report: {self.index}"] if self.index else lines)


def reproduce(
    preset: Preset = "small",
    *,
    dataset: str = "ml-100k",
    only: Sequence[str] | None = None,
    seeds: int = 1,
    jobs: int = 2,
    methods: Sequence[str] | None = None,
    runs_only: bool = False,
) -> Summary:
    """Runs of all methods (or `methods`) and their variants with seeds 0 … `seeds` - 1, the notebooks, the report.

    Args:
        only: numbers or names of notebooks; None executes all.
        runs_only: leave out notebooks and report.
        jobs: processes side by side; 1 runs in this process, with its progress bars.

    Raises:
        UnknownNameError: preset, dataset, method or notebook is unknown; nothing has been started then.
    """
    started = time.monotonic()
    sources = [notebooks.find(name) for name in only] if only else notebooks.sources()
    planned = plan(preset, dataset=dataset, seeds=seeds, methods=methods)
    stored = [job for job in planned if _stored(job.payload)]
    missing = [job for job in planned if job not in stored]
    summary = Summary(run_jobs(stored, run_one, processes=1) + run_jobs(missing, run_one, processes=jobs))
    if runs_only:
        summary.seconds = time.monotonic() - started
        return summary
    for source in sources:
        summary.outcomes.append(timed(source.stem, lambda source=source: _notebook(source, dataset, preset)))
        tqdm.write(str(summary.outcomes[-1]))
    summary.outcomes.append(timed("report", lambda: str(report())))
    if not summary.outcomes[-1].failed:
        summary.index = Path(summary.outcomes[-1].note)
    summary.seconds = time.monotonic() - started
    return summary


def plan(preset: Preset, *, dataset: str, seeds: int = 1, methods: Sequence[str] | None = None) -> list[Job]:
    """One job per method and seed: sanity rows, then methods others read from, then their readers, then the rest; a
    method's variants (`unisr.variants`) follow it.

    What a named method requires is planned too. Without `methods`, those that have the preset are taken.
    """
    known = registry.methods()
    wanted = [registry.method(n).card.name for n in methods or known if methods or preset in known[n].presets]
    for name in wanted:
        wanted.extend(r for r in known[name].card.requires if r not in wanted)
    read = {name for m in wanted for name in known[m].card.requires}

    def place(name: str) -> int:
        card = known[name].card
        return 0 if card.family == "reference" else 1 if name in read else 2 if card.requires else 3

    def jobs(method: str, seed: int) -> list[Job]:
        configs = {method: RunConfig(method=method, dataset=dataset, preset=preset, seed=seed)}
        if method in VARIANTS:
            configs = variants(method, preset=preset, dataset=dataset, seed=seed)
        needs = tuple(_name(r, seed) for r in known[method].card.requires)
        return [
            Job(_name(label if label == method else f"{method}, {label},", seed), config, needs)
            for label, config in configs.items()
        ]

    ordered = sorted(wanted, key=place)
    return [job for seed in range(seeds) for method in ordered for job in jobs(method, seed)]


def run_one(config: RunConfig) -> str:
    """One method and seed on every kind of candidates, reloaded where stored; the note tells NDCG@10 per task."""
    import unisr

    made, *_ = [unisr.run(each) for each in all_candidates(config)]
    return ", ".join(f"{task} NDCG@10 {values['NDCG@10']:.3f}" for task, values in made.metrics.items())


def all_candidates(config: RunConfig) -> list[RunConfig]:
    """This config with each kind of candidates; the weights are those of the first."""
    return [config.model_copy(update={"candidates": kind}) for kind in KINDS]


def _stored(config: RunConfig) -> bool:
    """Whether whole runs of this config are there; a damaged one is left to the job, whose error names it."""
    try:
        return all(store.find(each) is not None for each in all_candidates(config))
    except StoreError:
        return False


def _name(method: str, seed: int) -> str:
    return f"{method} seed {seed}"


def _notebook(source: Path, dataset: str, preset: str) -> str:
    known = notebooks.parameters(source)
    given = {name: value for name, value in {"dataset": dataset, "preset": preset}.items() if name in known}
    folder = notebooks.folder({"dataset": dataset, "preset": preset})
    return str(notebooks.execute(source, given, folder / source.name))
