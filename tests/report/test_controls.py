"""Every method's settings have controls that say a valid config."""

from __future__ import annotations

from typing import Any, Literal

import ipywidgets
import pytest
from pydantic import Field, ValidationError

from unisr import registry
from unisr.config import RunConfig, Settings, later
from unisr.report.controls import NONE, Settable, changes, controls, held
from unisr.variants import STUDIES

METHODS = list(registry.methods())


class Inner(Settings):
    depth: int = Field(2, ge=1)


class Example(Settings):
    """One field of every kind."""

    switch: bool = True
    """What it
    switches."""
    choice: Literal["a", "b"] = "a"
    share: float = Field(0.2, ge=0, lt=1)
    rate: float = Field(0.01, gt=0)
    heads: int = Field(2, ge=1)
    limit: int | None = Field(8, ge=3)
    inner: Inner = Inner()
    added: Literal["x", "y"] = later("x")
    words: str = "free text"
    sizes: tuple[int, ...] = (3, 4)


def values(control: ipywidgets.Widget) -> list[Any]:
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    return [value for _, value in control.options]


def test_a_control_per_kind_of_field() -> None:
    made = controls(Example, Example())
    kinds = {name: type(control).__name__ for name, control in made.items()}
    assert kinds == {"switch": "Checkbox", "choice": "Dropdown", "share": "SelectionSlider", "rate": "SelectionSlider",
                     "heads": "SelectionSlider", "limit": "SelectionSlider", "inner.depth": "SelectionSlider",
                     "added": "Dropdown"}  # fmt: skip
    assert values(made["choice"]) == ["a", "b"]
    assert values(made["share"]) == [0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    assert values(made["rate"]) == [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
    assert values(made["heads"]) == [1, 2, 4, 8]
    assert values(made["limit"]) == [4, 8, 16, 32, NONE]
    assert values(made["inner.depth"]) == [1, 2, 3, 4, 8]
    assert made["switch"].tooltip == "What it switches."
    made["limit"].value = NONE
    assert held(made["limit"]) is None and held(made["heads"]) == 2


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_the_preset_and_extremes_are_valid(method: str) -> None:
    """Each value of each control alone: numbers always, words unless the config says what they do not go with."""
    config = RunConfig(method=method, preset="quick")
    settable = Settable(config)
    assert settable.config().config_id == config.config_id and changes(settable.config()) == ""
    for control in settable.widgets():
        assert control.description and control.tabbable is not False and not control.disabled
        start = control.value
        offered = values(control)
        assert start in offered
        for value in offered if isinstance(control, ipywidgets.Dropdown) else {offered[0], offered[-1]}:
            control.value = value
            try:
                settable.config()
            except ValidationError as refused:
                word = isinstance(control, ipywidgets.Dropdown) or value == "no limit"
                assert word, (control.description, value, refused)
                assert control.description.rpartition(".")[2] in str(refused)
        control.value = start
    assert settable.config() == config


@pytest.mark.parametrize("method", METHODS)
def test_every_switch_and_number_of_the_method_has_a_control(method: str) -> None:
    config = RunConfig(method=method, preset="quick").model
    made = controls(type(config), config)
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, bool | int | float):
            assert name in made


def test_changed_controls_say_a_changed_config() -> None:
    settable = Settable(RunConfig(method="GenSR", preset="quick"))
    settable.model["backbone.layers"].value = 3
    settable.model["contrastive"].value = "none"
    settable.training["learning_rate"].value = 0.004
    settable.data["max_users"].value = NONE
    config = settable.config()
    assert (config.model.backbone.layers, config.model.contrastive, config.max_users) == (3, "none", None)
    assert config.model.backbone.width == settable.base.model.backbone.width
    assert changes(config) == "learning_rate=0.004, backbone.layers=3, contrastive=none"
    assert RunConfig.model_validate(config.model_dump(mode="json")).config_id == config.config_id


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_a_study_is_told_apart_and_can_be_turned(name: str) -> None:
    """Also where a whole group of settings is left out, or added."""
    for variant, config in STUDIES[name].configs("small").items():
        assert variant == STUDIES[name].method or changes(config), variant
        assert Settable(config).config().config_id == config.config_id, variant
