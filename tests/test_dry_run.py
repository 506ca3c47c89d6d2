"""The preset `paper` of every method, and dry runs of it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tests.offline import offline
from unisr import registry
from unisr.benchmarks.dry_run import FirstBatches, dry_run
from unisr.cli import app
from unisr.config import RunConfig
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.causal_lm import CausalLMConfig
from unisr.models.joint.gems_config import TINY
from unisr.paths import results_dir
from unisr.variants import STUDIES, variants

SIZES = ("width", "layers", "heads", "feed_forward", "inner", "hidden")
TRAINED = [name for name, method in registry.methods().items() if method.presets["quick"][0].epochs]


def small(method: str) -> RunConfig:
    """The preset `paper` on the synthetic world, with sizes of `quick` and batches of 16."""
    model = offline(registry.method(method), *SIZES)
    training: dict[str, object] = {"batch_size": 16, "accumulation": 1, "evaluation_batch": 8}
    if method == "GEMS":
        model = model.model_copy(update={"lm": CausalLMConfig(name="random", testbed=TINY)})
        training["subspace"] = {"rank": 4, "null_space": {"tokens": 200}}
    return RunConfig(method=method, dataset="synthetic", preset="paper", model=model, training=training)


@pytest.mark.parametrize("method", registry.methods())
def test_a_paper_config_has_an_id_and_comes_back_from_json(method: str) -> None:
    config = RunConfig(method=method, preset="paper")
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config and again.config_id == config.config_id
    assert config.config_id != RunConfig(method=method, preset="full").config_id


@pytest.mark.parametrize("study", STUDIES)
def test_the_variants_of_every_study_have_it(study: str) -> None:
    for config in variants(study, preset="paper").values():
        assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_validates_and_ranks(method: str, world: Dataset) -> None:
    told = dry_run(small(method), 3, device="cpu")
    assert told.steps == 3 and told.parameters > 0 and told.users_per_second > 0
    assert told.loss is not None and told.examples_per_second
    assert (told.rows_per_second is None) == (registry.method(method).feeds_on == "sequences")
    assert not list(results_dir().rglob(f"*{told.config_id}*"))


def test_a_method_without_training_is_ranked_alone(world: Dataset) -> None:
    told = dry_run(RunConfig(method="Popularity", dataset="synthetic", preset="paper"), 3, device="cpu")
    assert told.steps == 0 and told.loss is None and told.rows_per_second is None and told.users_per_second > 0
    assert "nothing to train" in told.text()


@pytest.mark.parametrize("steps", [1, 10, 11, 25])
def test_exactly_so_many_steps_are_trained(steps: int, world: Dataset) -> None:
    told = dry_run(small("QEM"), steps, device="cpu")
    assert told.steps == steps
    assert "rows/s" in told.text() and "A100: 199 rows/s, 21-25 users/s" in told.text()


def test_accumulated_batches_make_one_step(world: Dataset) -> None:
    config = small("QEM")
    training = config.training.model_copy(update={"accumulation": 3})
    assert dry_run(config.model_copy(update={"training": training}), 4, device="cpu").steps == 4


def test_batches_go_on_where_the_last_epoch_ended() -> None:
    class Loader:
        steps = 3

        def epoch(self, epoch: int) -> list[int]:
            return [10 * epoch + step for step in range(3)]

    first = FirstBatches(Loader(), 2, 5)  # type: ignore[arg-type]
    assert [list(first.epoch(epoch)) for epoch in range(3)] == [[0, 1], [2, 10], [11]]


@pytest.mark.parametrize("steps", [0, -2])
def test_fewer_steps_than_one_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        dry_run(small("QEM"), steps)
    asked = CliRunner().invoke(app, ["run", "QEM", "--max-steps", str(steps)])
    assert asked.exit_code == 2 and "--max-steps" in asked.output


def test_the_command_tells_speeds_beside_the_official_ones(world: Dataset) -> None:
    asked = ["run", "GenSR", "-d", "synthetic", "-p", "paper", "--max-steps", "2", "--device", "cpu",
             "--set", "model.backbone.name=t5", "--set", "training.batch_size=8"]  # fmt: skip
    told = CliRunner().invoke(app, [*asked, "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.output.splitlines()[-1])
    assert found["steps"] == 2 and found["rows_per_second"] == pytest.approx(5 * found["examples_per_second"])
    assert found["official"]["rows_per_second"] == 199 and found["precision"] == "bf16"
