"""Studies: their configs, their names, what they train, and that they are planned with their method."""

from pathlib import Path

import pytest
import torch

import unisr
from unisr import registry
from unisr.config import PRESETS, RunConfig, TrainConfig
from unisr.data.candidates import KINDS
from unisr.data.histories import Histories
from unisr.data.loaders import SequenceLoader, TrainLoader
from unisr.data.schema import Dataset, Task
from unisr.errors import ConfigError, UnknownNameError
from unisr.models.joint import GenSRConfig
from unisr.reproduce import all_candidates, plan
from unisr.variants import BETAS, OWN, STUDIES, TAUS, find, label, point, variants


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_every_variant_is_a_config_of_its_own_and_knows_its_name(name: str, preset: str) -> None:
    study = STUDIES[name]
    found = variants(name, preset=preset, dataset="synthetic", seed=3)
    assert list(found) == study.names(preset) and list(found)[0] == study.method
    assert set(found) <= {study.method, *study.changes}
    assert len({config.config_id for config in found.values()}) == len(found)
    for variant, config in found.items():
        stored = RunConfig.model_validate(config.model_dump(mode="json"))
        again = stored.model_copy(update={"candidates": "full", "seed": 1})
        assert label(config) == label(again) == study.name_of(again) == variant
    other = RunConfig(method=study.method, dataset="synthetic", preset=preset, training={"epochs": 37})
    assert label(other) == study.method and study.name_of(other) is None


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("preset", ["quick", "small", "full"])
def test_all_runs_of_a_study_have_one_training(name: str, preset: str) -> None:
    """But for the settings that the variant is about, and those that were searched for it."""
    whole, *others = variants(name, preset=preset).items()
    for variant, config in others:
        changed = STUDIES[name].changes[variant].get("training", {})
        assert set(changed) <= {"tasks", "aggregator", "subspace"}
        tuned = STUDIES[name].tuned.get(preset, {}).get(variant, {})
        assert set(tuned) <= {"learning_rate", "weight_decay"}
        assert all(getattr(config.training, setting) == value for setting, value in tuned.items())
        kept = set(TrainConfig.model_fields) - set(changed) - set(tuned)
        assert all(getattr(config.training, name) == getattr(whole[1].training, name) for name in kept)
    of_preset = registry.method(STUDIES[name].method).presets[preset][0]
    assert (whole[1].training == of_preset) == (preset not in STUDIES[name].base)


def test_a_method_without_variants_is_only_itself() -> None:
    assert variants("sasrec", preset="quick") == {"SASRec": RunConfig(method="SASRec", preset="quick")}
    assert find("gensr") is STUDIES["ablation"]
    with pytest.raises(UnknownNameError, match="did you mean SASRec"):
        variants("SASRek", preset="quick")


def test_the_grid_has_the_whole_ranges_and_the_whole_model_at_its_own_point() -> None:
    assert OWN == (GenSRConfig().temperature, GenSRConfig().beta)
    configs = variants("sensitivity", preset="full")
    points = {(c.model.temperature, c.model.beta): name for name, c in configs.items()}
    assert set(points) == {(tau, beta) for tau in TAUS for beta in BETAS} and points[OWN] == "GenSR"
    for preset in ("quick", "small"):
        coarse = [c.model for c in variants("sensitivity", preset=preset).values()]
        assert {c.temperature for c in coarse} >= {TAUS[0], TAUS[-1], OWN[0]} and BETAS[-1] in {c.beta for c in coarse}


def test_ablation_and_sensitivity_share_the_whole_model() -> None:
    for preset in ("quick", "small", "full"):
        a, b = (variants(name, preset=preset)["GenSR"].config_id for name in ("ablation", "sensitivity"))
        assert a == b


# Plans.


@pytest.mark.parametrize("study", STUDIES)
def test_variants_are_planned_after_the_whole_method_and_what_that_needs(study: str) -> None:
    method = STUDIES[study].method
    jobs = {job.name: job for job in plan("quick", dataset="synthetic", seeds=2, study=study)}
    for name in STUDIES[study].names("quick")[1:]:
        for seed in range(2):
            job = jobs[f"{method}, {name}, seed {seed}"]
            *read, whole = job.needs
            assert read == [f"{r} seed {seed}" for r in registry.method(method).card.requires]
            assert jobs[whole].payload == STUDIES[study].configs("quick", dataset="synthetic", seed=seed)[method]
            assert label(job.payload) == name and job.payload.seed == seed
    names = list(jobs)
    assert all(names.index(needed) < names.index(name) for name, job in jobs.items() for needed in job.needs)


def test_a_study_with_more_seeds_brings_those_of_what_it_reads_and_no_others() -> None:
    jobs = plan("small", dataset="ml-100k", methods=["GenSR", "UniSAR"])
    starts = ("GenSR seed", "GenSR, without the query", "GenSR, trained", "GenSR, τ", "UniSAR", "LightGCN")
    seeds = {start: {job.payload.seed for job in jobs if job.name.startswith(start)} for start in starts}
    assert seeds == {"GenSR seed": {0}, "GenSR, without the query": {0, 1, 2}, "GenSR, trained": {0, 1, 2},
                     "GenSR, τ": {0}, "UniSAR": {0}, "LightGCN": {0, 1, 2}}  # fmt: skip
    names = [job.name for job in jobs]
    assert all(names.index(needed) < names.index(job.name) for job in jobs for needed in job.needs)


def test_full_plans_the_ablation_unasked_and_the_grid_on_request() -> None:
    unasked = {label(job.payload) for job in plan("full", dataset="ml-100k", methods=["GenSR"])}
    assert set(STUDIES["ablation"].changes) <= unasked and not unasked & set(STUDIES["sensitivity"].changes)
    jobs = plan("full", dataset="ml-100k", study="sensitivity")
    assert {job.payload.method for job in jobs} == {"GenSR", "LightGCN"}
    assert len(jobs) == len(TAUS) * len(BETAS) + 1 and point(0.01, 0.3) in {label(job.payload) for job in jobs}
    with pytest.raises(UnknownNameError, match="did you mean sensitivity"):
        plan("full", dataset="ml-100k", study="sensitivities")


def test_variants_of_gensr_rank_the_papers_candidates_only() -> None:
    short = variants("ablation", preset="small")
    assert [c.candidates for c in all_candidates(short["CF view only"])] == ["uniform"] == [
        c.candidates for c in all_candidates(short["GenSR"])
    ]
    for config in (RunConfig(method="GenSR"), *variants("GenSAR", preset="small").values()):
        assert [c.candidates for c in all_candidates(config)] == list(KINDS)


# Tasks.


def test_a_task_alone_has_the_examples_and_steps_that_it_has_beside_the_other(world: Dataset) -> None:
    def loader(tasks: tuple[str, ...] | None) -> TrainLoader:
        config = TrainConfig(batch_size=64, epoch_examples=500, tasks=tasks)
        return TrainLoader(world, Histories(world), ("rec", "src"), config=config)

    joint = list(loader(None).epoch(1))
    for name, task in (("rec", Task.REC), ("src", Task.SRC)):
        alone = list(loader((name,)).epoch(1))
        assert len(alone) == len(joint) == loader((name,)).steps
        for ours, both in zip(alone, joint, strict=True):
            kept = both.select(both.task == int(task))
            assert (ours.task == int(task)).all() and torch.equal(ours.user, kept.user)
            assert torch.equal(ours.candidates[ours.labels > 0], kept.candidates[kept.labels > 0])
    assert sum(map(len, joint)) == 500


def test_a_run_of_one_task_is_trained_and_ranked_on_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    short = {"epochs": 1, "epoch_examples": 200, "validation_users": 10}
    made = unisr.run(RunConfig(method="JSR", dataset="synthetic", preset="quick", training={**short, "tasks": ["src"]}))
    assert set(made.metrics) == set(made.per_query["task"]) == {"src"} and "loss_rec" not in made.losses
    assert {c for c in made.losses if c.startswith("validation_rec")} == set()
    assert made.config.training.tasks == ("src",) and made.cost.examples == pytest.approx(100, abs=40)
    both = RunConfig(method="JSR", dataset="synthetic", preset="quick", training=short)
    assert both.config_id != made.config.config_id and "tasks" not in both.model_dump()["training"]


def test_a_task_that_a_method_lacks_is_refused(world: Dataset) -> None:
    with pytest.raises(ConfigError, match="training.tasks: SASRec does not do src; it does rec"):
        RunConfig(method="SASRec", training={"tasks": ["rec", "src"]})
    with pytest.raises(ValueError, match="at least 1"):
        RunConfig(method="GenSR", training={"tasks": []})
    with pytest.raises(ConfigError, match="recommendation targets only"):
        SequenceLoader(world, Histories(world), ("rec", "src"), config=TrainConfig(tasks=("src",)))


def test_presets_dump_no_field_that_stored_runs_lack() -> None:
    for preset in set(PRESETS) & set(registry.method("GenSR").presets):
        dumped = RunConfig(method="GenSR", preset=preset).model_dump()
        assert not {"views", "task_prompts"} & set(dumped["model"]) and "tasks" not in dumped["training"]
