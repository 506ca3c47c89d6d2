"""The main job: run every method, execute the notebooks, write the report. Resumable, since stored runs are reused."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unisr import registry
from unisr.config import Preset, RunConfig
from unisr.errors import StoreError
from unisr.jobs import Job, Outcome, clock, run_jobs, timed
from unisr.report import notebooks, store
from unisr.report.publish import report
from unisr.variants import Study, kinds, named, studies_of

__all__ = ["Summary", "plan", "report", "reproduce"]
LONG = ("05_mutual_information", "07_gradient_conflict", "11_gems", "14_audit")
"""Notebooks that analyze trained models for minutes."""


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
    study: str | None = None,
    cluster: str | None = None,
) -> Summary:
    """Runs of all methods (or `methods`) and their variants with seeds 0 … `seeds` - 1, the notebooks, the report.

    Args:
        only: numbers or names of notebooks; None executes all.
        study: of `unisr.variants`; its runs and what they need are made in place of `methods`.
        runs_only: leave out notebooks and report.
        jobs: processes side by side; 1 runs in this process, with its progress bars.
        cluster: address of a Dask scheduler; runs are made by its workers, notebooks and report here.

    Raises:
        UnknownNameError: preset, dataset, method, study or notebook is unknown; nothing has been started then.
        ClusterError: the cluster cannot be used; nothing has been started then.
    """
    started = time.monotonic()
    sources = [notebooks.find(name) for name in only] if only else notebooks.sources()
    planned = plan(preset, dataset=dataset, seeds=seeds, methods=methods, study=study)
    stored = [job for job in planned if _stored(job.payload)]
    missing = [job for job in planned if job not in stored]
    told = run_jobs(stored, run_one, processes=1)
    summary = Summary(told + run_jobs(missing, run_one, processes=jobs, cluster=cluster))
    if runs_only:
        summary.seconds = time.monotonic() - started
        return summary
    pages = [Job(source.stem, (source, dataset, preset)) for source in _longest_first(sources)]
    summary.outcomes += run_jobs(pages, _execute, processes=jobs)
    summary.outcomes.append(timed("report", lambda: str(report())))
    if not summary.outcomes[-1].failed:
        summary.index = Path(summary.outcomes[-1].note)
    summary.seconds = time.monotonic() - started
    return summary


def plan(
    preset: Preset, *, dataset: str, seeds: int = 1, methods: Sequence[str] | None = None, study: str | None = None
) -> list[Job]:
    """One job per method and seed: sanity rows, then methods others read from, then their readers, then the rest; a
    method's studies (`unisr.variants`) follow it, with more seeds where they ask for them.

    What a named method requires is planned too. Without `methods`, those that have the preset are taken. With `study`,
    its runs alone and what they require.
    """
    known = registry.methods()
    asked = [named(study)] if study else []
    names = [s.method for s in asked] or methods or [name for name in known if preset in known[name].presets]
    wanted = _with_required(registry.method(name).card.name for name in names)
    studies = asked or [s for name in wanted for s in studies_of(name).values() if preset in s.unasked]
    seeds_of = {s: max(seeds, s.seeds.get(preset, 1)) for s in studies}
    jobs: dict[str, Job] = {}
    for seed in range(max([seeds, *seeds_of.values()])):
        here = [s for s in studies if seed < seeds_of[s]]
        read = _with_required(r for s in here for r in known[s.method].card.requires)
        plain = read if asked or seed >= seeds else wanted
        for method in _ordered(wanted):
            own = RunConfig(method=method, dataset=dataset, preset=preset, seed=seed)
            needs = tuple(_name(r, seed) for r in known[method].card.requires)
            made = [Job(_name(method, seed), own, needs)] if method in plain else []
            made += [job for s in here if s.method == method for job in _study_jobs(s, own, needs)]
            for job in made:
                jobs.setdefault(job.payload.config_id, job)
    return list(jobs.values())


def _with_required(names: Iterable[str]) -> list[str]:
    """These methods, then those whose tables they read."""
    found = list(dict.fromkeys(names))
    for name in found:
        found.extend(r for r in registry.method(name).card.requires if r not in found)
    return found


def _ordered(names: Sequence[str]) -> list[str]:
    """Sanity rows, methods that others read from, their readers, the rest."""
    cards = {name: registry.method(name).card for name in names}
    read = {required for card in cards.values() for required in card.requires}

    def place(name: str) -> int:
        card = cards[name]
        return 0 if card.family == "reference" else 1 if name in read else 2 if card.requires else 3

    return sorted(names, key=place)


def _study_jobs(study: Study, own: RunConfig, needs: tuple[str, ...]) -> list[Job]:
    """A study's runs with the preset, dataset and seed of `own`, the preset's run of its method. Variants wait for the
    whole method, so that what all of them read (tokenizers, identifiers, a pretrained model) is made once."""
    configs = study.configs(own.preset, dataset=own.dataset, seed=own.seed)
    short = own.method if configs[own.method].config_id == own.config_id else f"{own.method}, trained as its variants,"
    whole = _name(short, own.seed)
    variants = [(_name(f"{own.method}, {label},", own.seed), configs[label]) for label in study.names(own.preset)[1:]]
    return [Job(whole, configs[own.method], needs), *(Job(name, each, (*needs, whole)) for name, each in variants)]


def run_one(config: RunConfig) -> str:
    """One method and seed on its kinds of candidates, reloaded where stored; the note tells NDCG@10 per task."""
    import unisr

    made, *_ = [unisr.run(each) for each in all_candidates(config)]
    return ", ".join(f"{task} NDCG@10 {values['NDCG@10']:.3f}" for task, values in made.metrics.items())


def all_candidates(config: RunConfig) -> list[RunConfig]:
    """This config with each kind of candidates that it ranks; the weights are those of the first."""
    return [config.model_copy(update={"candidates": kind}) for kind in kinds(config)]


def _stored(config: RunConfig) -> bool:
    """Whether whole runs of this config are there; a damaged one is left to the job, whose error names it."""
    try:
        return all(store.find(each) is not None for each in all_candidates(config))
    except StoreError:
        return False


def _name(method: str, seed: int) -> str:
    return f"{method} seed {seed}"


def _longest_first(sources: Sequence[Path]) -> list[Path]:
    """So that no process ends up with a long one alone."""
    return sorted(sources, key=lambda source: source.stem not in LONG)


def _execute(page: tuple[Path, str, str]) -> str:
    """Execute a notebook with a dataset and a preset, as far as it takes them; the note is the executed copy's path."""
    source, dataset, preset = page
    known = notebooks.parameters(source)
    given = {name: value for name, value in {"dataset": dataset, "preset": preset}.items() if name in known}
    folder = notebooks.folder({"dataset": dataset, "preset": preset})
    return str(notebooks.execute(source, given, folder / source.name))
