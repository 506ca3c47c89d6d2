"""Variants: their configs, their names, and that they are planned with their method."""

import pytest

from unisr import registry
from unisr.config import RunConfig
from unisr.errors import UnknownNameError
from unisr.reproduce import plan
from unisr.variants import VARIANTS, label, variants


@pytest.mark.parametrize("method", VARIANTS)
def test_every_variant_is_a_config_of_its_own_and_knows_its_name(method: str) -> None:
    found = variants(method, preset="quick", dataset="synthetic", seed=3)
    assert list(found) == [method, *VARIANTS[method]]
    assert len({config.config_id for config in found.values()}) == len(found)
    for name, config in found.items():
        again = config.model_copy(update={"candidates": "full", "seed": 1})
        assert label(config) == label(again) == name
    other = RunConfig(method=method, dataset="synthetic", preset="quick", training={"epochs": 1})
    assert label(other) == method


def test_a_method_without_variants_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="method with variants"):
        variants("SASRec", preset="quick")


def test_variants_are_planned_after_what_their_method_needs() -> None:
    (method, *_) = VARIANTS
    jobs = {job.name: job for job in plan("quick", dataset="synthetic", seeds=2, methods=[method])}
    for name in VARIANTS[method]:
        for seed in range(2):
            job = jobs[f"{method}, {name}, seed {seed}"]
            assert job.needs == tuple(f"{r} seed {seed}" for r in registry.method(method).card.requires)
            assert label(job.payload) == name and job.payload.seed == seed
