"""Which stored runs stand in the tables of notebooks 02, 03 and 13, in which order, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisr import registry
from unisr.config import RunConfig
from unisr.data.candidates import KINDS
from unisr.data.schema import TASK_TITLES
from unisr.errors import ConfigError, StoreError
from unisr.report import store
from unisr.report.groups import has_preset_settings
from unisr.report.sections import PAPER_TABLES
from unisr.report.store import Run
from unisr.report.tables import paper_numbers
from unisr.variants import find

FAST = {
    "rec": ("Popularity", "LightGCN", "SASRec", "UniSAR"),
    "src": ("Popularity", "Lexical", "Lexical+Popularity", "TEM", "UniSAR"),
}
"""Methods that a notebook trains by itself at the quick preset: some seconds each."""
FAST_FULL = "Popularity,LightGCN,SASRec,TIGER,Lexical,TEM,BSR"
"""The same for notebook 04, with methods that write items."""


@dataclass(frozen=True)
class Lineup:
    """Stored runs with their presets' own settings, and what is not there."""

    dataset: str
    preset: str
    runs: dict[str, list[Run]]
    """Kind of candidates -> runs in the order of `ordered`; kinds without a run are left out."""
    missing: list[str]
    """Methods that were asked for and have no run with uniform candidates."""

    @property
    def main(self) -> list[Run]:
        """The runs that rank the papers' candidates."""
        return self.runs[KINDS[0]]

    @property
    def kinds(self) -> list[str]:
        """Kinds of candidates that some run ranks."""
        return list(self.runs)

    def __str__(self) -> str:
        """What is shown, what is missing, and the command that makes it, in Markdown."""
        counts = [f"{kind} {len({run.config.method for run in runs})}" for kind, runs in self.runs.items()]
        text = f"**{self.dataset}, preset {self.preset}**. Methods, by candidates: {', '.join(counts)}."
        if self.missing:
            command = _command(self.dataset, self.preset, self.missing)
            text += f"\n\nWithout a stored run: {', '.join(self.missing)}. Make them with `{command}`."
        return text

    def _repr_markdown_(self) -> str:
        return str(self)


def to_make(dataset: str, preset: str, tasks: Sequence[str], methods: str = "") -> list[RunConfig]:
    """Configs that a notebook runs before it shows anything: none but at the quick preset.

    Args:
        tasks: 'rec', 'src' or both.
        methods: names with commas between them; empty takes the fast ones.

    Raises:
        UnknownNameError: no such method or dataset.
        ConfigError: a named method does none of the tasks.
    """
    if preset != "quick":
        return []
    names = named(methods, tasks) or list(dict.fromkeys(name for task in tasks for name in FAST[task]))
    return [
        RunConfig(method=name, dataset=dataset, preset="quick", candidates=kind) for name in names for kind in KINDS
    ]


def stored(dataset: str, preset: str, tasks: Sequence[str], methods: str = "") -> Lineup:
    """The stored runs of the tasks' methods (or of `methods`); nothing is trained. Arguments as in `to_make`.

    Raises:
        UnknownNameError, ConfigError: see `to_make`.
        StoreError: there is no such run; the message says how to make them.
    """
    known = registry.methods()
    wanted = named(methods, tasks) or [name for name, method in known.items() if set(tasks) & set(method.card.tasks)]
    own = [r for r in store.runs(dataset, preset) if r.config.method in wanted and has_preset_settings(r)]
    place = {name: i for i, name in enumerate(ordered(wanted))}
    own.sort(key=lambda run: (place[run.config.method], run.config.seed))
    runs = _by_kind(own)
    if KINDS[0] not in runs:
        asked = " and ".join(TASK_TITLES[task] for task in tasks)
        command = _command(dataset, preset)
        raise StoreError(f"no stored run for {asked} on {dataset}, preset {preset}; make them with `{command}`")
    there = {run.config.method for run in runs[KINDS[0]]}
    missing = [name for name in place if name not in there and preset in known[name].presets]
    return Lineup(dataset, preset, runs, missing)


def stored_variants(dataset: str, preset: str, name: str) -> dict[str, list[Run]]:
    """Kind of candidates -> stored runs of a study, or of a method's main one (`unisr.variants.find`), the whole method
    first; label them with `unisr.variants.label`.

    Raises:
        UnknownNameError: no such study or method.
        StoreError: there is none; the message says how to make them.
    """
    study = find(name)
    own = {run: study.name_of(run.config) for run in store.runs(dataset, preset, study.method)}
    order = study.names(preset)
    runs = sorted((r for r in own if own[r]), key=lambda run: (order.index(own[run]), run.config.seed))
    if not runs:
        command = _command(dataset, preset, [study.method])
        if name != study.method:
            command = f"unisr reproduce --data {dataset} --preset {preset} --study {name}"
        raise StoreError(f"no stored run of {name} on {dataset}, preset {preset}; make them with `{command}`")
    return _by_kind(runs)


def _by_kind(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each kind of candidates that has any."""
    kinds = {kind: [run for run in runs if run.config.candidates == kind] for kind in KINDS}
    return {kind: found for kind, found in kinds.items() if found}


def _command(dataset: str, preset: str, methods: Sequence[str] = ()) -> str:
    """The command line that makes the runs of `methods` (all, if none or many are named)."""
    some = f" --methods {','.join(methods)}" if 0 < len(methods) <= 6 else ""
    return f"unisr reproduce --data {dataset} --preset {preset}{some}"


def named(methods: str, tasks: Sequence[str]) -> list[str]:
    """The registered names in a list with commas; empty for an empty text. Errors as in `to_make`."""
    cards = [registry.method(name.strip()).card for name in methods.split(",") if name.strip()]
    for card in cards:
        if not set(tasks) & set(card.tasks):
            raise ConfigError(f"{card.name} does not do {', '.join(tasks)}; it does {', '.join(card.tasks)}")
    return list(dict.fromkeys(card.name for card in cards))


def ordered(names: Sequence[str]) -> list[str]:
    """Names by family, within it as in the paper's tables.

    A method that the paper lacks follows the paper's method whose name begins its own (`SASRec-merged` after
    `SASRec`), or comes first in its family.
    """
    known = registry.methods()
    printed = [name for table in PAPER_TABLES.values() for name in paper_numbers(table)["method"].unique()]
    places = {name.lower(): place for place, name in reversed(list(enumerate(printed)))}

    def place(name: str) -> tuple[int, int, int]:
        begins = [p for p in places if name.lower().startswith(p)]
        own = places[max(begins, key=len)] if begins else -1
        return registry.FAMILIES.index(known[name].card.family), own, list(known).index(name)

    return sorted(names, key=place)
