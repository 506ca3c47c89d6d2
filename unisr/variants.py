"""Studies: named variants of a method beside the whole method, all trained alike, that answer a question of the papers.

A variant is the whole method with some settings changed. Where a preset trains too long for so many runs, a study gives
the whole method and its variants one shorter training: a contrast is fair at equal budgets only. The whole method in a
study is then a run of its own beside the preset's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product

from unisr import registry
from unisr.config import PRESETS, CandidateKind, Preset, RunConfig
from unisr.data.candidates import KINDS
from unisr.errors import UnknownNameError

Change = dict[str, dict[str, object]]
"""`model` and `training` settings that differ."""
TAUS = (0.01, 0.03, 0.05, 0.07, 0.09)
BETAS = (0.001, 0.01, 0.1, 0.15, 0.2, 0.25, 0.3)
"""The paper's ranges of τ and β (GenSR, section 6.1.3)."""
OWN = (0.07, 0.01)
"""GenSR's own τ and β: the point of the grid that is the whole method."""


@dataclass(frozen=True, eq=False)
class Study:
    """Variants of one method; the whole method stands among them under the method's name."""

    method: str
    changes: Mapping[str, Change]
    """Name of the variant -> settings that differ from the whole method's."""
    base: Mapping[Preset, Change] = field(default_factory=dict)
    """Settings of the whole method and all variants alike that differ from the preset's."""
    tuned: Mapping[Preset, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Training settings of a variant that a search of its own chose in place of the preset's, so that none is compared
    at the settings of another."""
    only: Mapping[Preset, tuple[str, ...]] = field(default_factory=dict)
    """The variants of a preset that cannot afford all."""
    kinds: tuple[CandidateKind, ...] = ("uniform",)
    """Candidates that its runs rank."""
    seeds: Mapping[Preset, int] = field(default_factory=dict)
    """Least number of seeds that `unisr reproduce` runs; 1 where a preset is not named."""
    unasked: tuple[Preset, ...] = PRESETS
    """Presets at which `unisr reproduce` runs it together with its method; else it wants `--study`."""

    def names(self, preset: Preset) -> list[str]:
        """The method, then its variants at this preset."""
        return [self.method, *self.only.get(preset, self.changes)]

    def configs(self, preset: Preset, *, dataset: str = "ml-100k", seed: int = 0) -> dict[str, RunConfig]:
        """The whole method under its own name, then each variant."""
        changes, tuned = {self.method: {}, **self.changes}, self.tuned.get(preset, {})
        shared = {"method": self.method, "dataset": dataset, "preset": preset, "seed": seed}
        return {
            name: RunConfig(
                **shared, **_merged(self.base.get(preset, {}), changes[name], {"training": tuned.get(name, {})})
            )
            for name in self.names(preset)
        }

    def name_of(self, config: RunConfig) -> str | None:
        """Which of `names` a config is, whatever its seed and candidates; None if it is none."""
        if config.method != self.method:
            return None
        plain = config.model_copy(update={"candidates": KINDS[0], "seed": 0})
        return _ids(self, config.preset, config.dataset).get(plain.config_id)


@lru_cache(maxsize=64)
def _ids(study: Study, preset: Preset, dataset: str) -> dict[str, str]:
    """Config ids with seed 0, and their names."""
    return {config.config_id: name for name, config in study.configs(preset, dataset=dataset).items()}


def _merged(*changes: Change) -> Change:
    """The changes one over the other."""
    return {part: {k: v for c in changes for k, v in c.get(part, {}).items()} for part in ("model", "training")}


def point(tau: float, beta: float) -> str:
    """The name of a variant of the study `sensitivity`."""
    return f"τ {tau:g}, β {beta:g}"


def _grid(taus: tuple[float, ...], betas: tuple[float, ...]) -> dict[str, Change]:
    """Points of a grid, without the one that is the whole method."""
    points = [pair for pair in product(taus, betas) if pair != OWN]
    return {point(*pair): {"model": dict(zip(("temperature", "beta"), pair, strict=True))} for pair in points}


RELEASED_NULL_SPACE = {"side": "output", "energy": None, "threshold": 2e-2}


def _subspace(**settings: object) -> Change:
    """GEMS' own subspace but for these settings."""
    return {"training": {"subspace": settings}}


SHORT: dict[Preset, Change] = {
    "quick": {"training": {"epochs": 1, "epoch_examples": 300, "validation_users": 20}},
    "small": {"training": {"epochs": 3, "epoch_examples": 4_000, "validation_users": 100}},
    "full": {"training": {"epochs": 4, "epoch_examples": 25_000, "validation_users": 200}},
}
"""Trainings of GenSR's studies: nine within a notebook's minute, forty runs in twenty minutes on two cores, a
third of the full preset's training, which a CPU can repeat for all variants and seeds within a day."""

TESTBED = {
    "GaLore": {"learning_rate": 5e-3, "weight_decay": 0.01},
    "without null space": {"learning_rate": 5e-3},
    "released form": {"learning_rate": 5e-3, "weight_decay": 0.01},
}
"""Chosen by `unisr tune GEMS --variants`, on the language model of `small`."""
SMOLLM2 = {name: {"learning_rate": 3e-4} for name in ("full fine-tuning", "PCGrad")}
"""Chosen by validation after 30 steps: GEMS and LoRA among 3e-4, 1e-3 and 3e-3, which was best for both, full
fine-tuning among 1e-4, 3e-4 and 1e-3. The others have what was chosen for their kin."""

STUDIES: dict[str, Study] = {
    "identifiers": Study(
        "GenSAR",
        {
            "semantic ids": {"model": {"identifiers": "semantic"}},
            "collaborative ids": {"model": {"identifiers": "collaborative"}},
            "without alignment tasks": {"model": {"alignment": False}},
        },
        kinds=KINDS,
    ),
    "ablation": Study(
        "GenSR",
        {
            "CF view only": {"model": {"views": "cf"}},
            "semantic view only": {"model": {"views": "semantic"}},
            "without soft filtering": {"model": {"filter": "none"}},
            "without contrastive learning": {"model": {"contrastive": "none"}},
            "without the query": {"model": {"query": False}},
            "without task prompts": {"model": {"task_prompts": False}},
            "recommendation alone": {"training": {"tasks": ("rec",)}},
            "search alone": {"training": {"tasks": ("src",)}},
        },
        base=SHORT,
        seeds={"small": 3, "full": 3},
    ),
    "sensitivity": Study(
        "GenSR",
        _grid(TAUS, BETAS),
        base=SHORT,
        only={
            "quick": tuple(_grid((0.01, 0.07, 0.09), (0.01, 0.3))),
            "small": tuple(
                _grid((0.01, 0.05, 0.09), OWN[1:])
                | _grid(OWN[:1], (0.001, 0.1, 0.3))
                | _grid((0.01, 0.09), (0.001, 0.3))
            ),
        },
        unasked=("quick", "small"),
    ),
    "aggregators": Study(
        "UniSAR",
        {
            "PCGrad": {"training": {"aggregator": "pcgrad"}},
            "CAGrad": {"training": {"aggregator": "cagrad"}},
            "MGDA": {"training": {"aggregator": "mgda"}},
            "Nash-MTL": {"training": {"aggregator": "nash"}},
        },
        base={
            "quick": {"training": {"epochs": 1, "epoch_examples": 1500, "validation_users": 20}},
            "small": {"training": {"epochs": 5, "epoch_examples": 7000}},
        },
        unasked=("small",),
    ),
    "adaptation": Study(
        "GEMS",
        {
            "full fine-tuning": {"model": {"trained": "all"}, "training": {"subspace": None}},
            "LoRA": {"model": {"adapter": "lora"}, "training": {"subspace": None}},
            "PCGrad": {"model": {"trained": "all"}, "training": {"subspace": None, "aggregator": "pcgrad"}},
            "DoRA": {"model": {"adapter": "dora"}, "training": {"subspace": None}},
            "a LoRA per task": {"model": {"adapter": "task_lora"}, "training": {"subspace": None}},
            "GaLore": _subspace(task_subspaces=False, null_space=None),
            "without multi-subspace": _subspace(task_subspaces=False),
            "without null space": _subspace(null_space=None),
            "random bases": _subspace(basis="random"),
            "words trained too": {"model": {"trained": "all"}},
            "released form": {
                "model": {"trained": "all", "item_start": "random"},
                **_subspace(passes="three", task_weights="shares", null_space=RELEASED_NULL_SPACE),
            },
        },
        tuned={"quick": TESTBED, "small": TESTBED, "full": SMOLLM2},
        unasked=("quick", "small"),
    ),
    "subspace": Study(
        "GEMS",
        {f"rank {rank}": _subspace(rank=rank) for rank in (4, 32, 512)}
        | {f"gap {gap}": _subspace(gap=gap) for gap in (10, 200)}
        | {f"null space {energy:g}": _subspace(null_space={"energy": energy}) for energy in (0.001, 0.1)},
        only={"small": ("rank 4", "rank 512", "gap 10", "null space 0.1")},
        unasked=("small",),
    ),
}
"""By the name that `unisr reproduce --study` takes; a method's first is its main one."""


def find(name: str) -> Study:
    """The study of this name, or the main one of the method of this name (without variants, if it has none).

    Raises:
        UnknownNameError: neither a study nor a method.
    """
    if name in STUDIES:
        return STUDIES[name]
    method = registry.method(name).card.name
    return next(iter(studies_of(method).values()), Study(method, {}))


def studies_of(method: str) -> dict[str, Study]:
    """The studies of a method by their names."""
    return {name: study for name, study in STUDIES.items() if study.method == method}


def named(name: str) -> Study:
    """The study of this name.

    Raises:
        UnknownNameError: no such study.
    """
    if name not in STUDIES:
        raise UnknownNameError("study", name, STUDIES)
    return STUDIES[name]


def variants(name: str, *, preset: Preset, dataset: str = "ml-100k", seed: int = 0) -> dict[str, RunConfig]:
    """`Study.configs` of a study, or of a method's main one. Errors as in `find`."""
    return find(name).configs(preset, dataset=dataset, seed=seed)


def label(config: RunConfig) -> str:
    """The name of the variant that a config is, whatever its seed and candidates; else the method's name."""
    names = (study.name_of(config) for study in studies_of(config.method).values())
    return next((name for name in names if name not in (None, config.method)), config.method)


def kinds(config: RunConfig) -> tuple[CandidateKind, ...]:
    """Which candidates `unisr reproduce` ranks with the weights of a config: every kind, but for runs of a study."""
    own = RunConfig(**config.model_dump(include={"method", "dataset", "preset", "seed", "candidates"}))
    if own.config_id == config.config_id:
        return KINDS
    within = [study.kinds for study in studies_of(config.method).values() if study.name_of(config)]
    return within[0] if within else KINDS
