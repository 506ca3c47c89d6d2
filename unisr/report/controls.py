"""Widgets for the fields of a settings class: numbers get sliders, choices menus, switches checkboxes.

The fields are read from the class, so that a field added to a method's config has its control at once. A number's
slider has steps around its default inside the field's bounds; fields that cannot be turned so (free text, tuples) have
no control and keep the preset's value. All are plain widgets with a label, reached and moved by the keyboard.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import ipywidgets
from pydantic.fields import FieldInfo

from unisr.config import RunConfig, Settings, TrainConfig

RANGES: dict[str, tuple[float, ...]] = {
    "temperature": (0.01, 0.03, 0.05, 0.07, 0.09, 0.2, 0.5),
    "beta": (0.0, 0.001, 0.01, 0.1, 0.15, 0.2, 0.25, 0.3),
}
"""The GenSR paper's search ranges (section 6.1.3), two temperatures beyond, and beta 0: no contrastive term."""
COMPARE = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
FACTORS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SMALL_WEIGHTS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
USERS = (50, 100, 200, 400, 800, None)
SEEDS = range(5)
NONE = "no limit"
"""What a control holds and shows for None, which ipywidgets takes for no choice at all."""
FEW = 3
"""Up to this default an integer's slider begins with every integer (layers, levels); others have doublings only."""


def controls(kind: type[Settings], values: Settings, *, prefix: str = "") -> dict[str, ipywidgets.Widget]:
    """Path of a field (`backbone.layers`) -> widget with the field's value in `values`, in the order of the class."""
    made: dict[str, ipywidgets.Widget] = {}
    for name, field in kind.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, Settings):
            made |= controls(type(value), value, prefix=f"{prefix}{name}.")
        elif widget := control(f"{prefix}{name}", field, value):
            widget.tooltip = notes(kind).get(name, "")
            made[f"{prefix}{name}"] = widget
    return made


def control(label: str, field: FieldInfo, value: Any) -> ipywidgets.Widget | None:
    """The widget of one field, or None where its values cannot be listed."""
    if isinstance(value, bool):
        return ipywidgets.Checkbox(value=value, description=label, indent=False, layout={"width": "260px"})
    choices = options(label, field, value)
    if choices is None:
        return None
    words = all(isinstance(choice, str) for choice in choices if choice is not None)
    return menu(label, choices, value) if words else slider(label, choices, value)


def held(widget: ipywidgets.Widget) -> Any:
    """The value that a control says for its field."""
    return None if isinstance(widget.value, str) and widget.value == NONE else widget.value


def menu(label: str, choices: Sequence[Any], value: Any) -> ipywidgets.Dropdown:
    """A list of choices; arrow keys and first letters pick one."""
    return ipywidgets.Dropdown(options=_shown(choices), value=_holds(value), description=label, **_look())


def slider(label: str, choices: Sequence[Any], value: Any) -> ipywidgets.SelectionSlider:
    """A slider over the given values that reports when it is released; arrow keys move it by one."""
    return ipywidgets.SelectionSlider(
        options=_shown(choices), value=_holds(value), description=label, continuous_update=False, **_look()
    )


def _look() -> dict[str, Any]:
    return {"style": {"description_width": "170px"}, "layout": {"width": "390px"}}


def _shown(choices: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"{c:g}" if isinstance(c, float) else str(_holds(c)), _holds(c)) for c in choices]


def _holds(value: Any) -> Any:
    return NONE if value is None else value


def options(label: str, field: FieldInfo, value: Any) -> list[Any] | None:
    """The values that a field's control offers, the present one among them; None where they cannot be listed."""
    kinds = _kinds(field.annotation)
    listed = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if listed:
        return [*listed, *([None] if NoneType in kinds else [])]
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    name, limits = label.rpartition(".")[2], bounds(field)
    numbers = _integers(name, value) if isinstance(value, int) else _floats(name, value, limits)
    found = sorted({value, *(n for n in numbers if all(COMPARE[rule](n, limit) for rule, limit in limits.items()))})
    return [*found, None] if NoneType in kinds else found


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def bounds(field: FieldInfo) -> dict[str, float]:
    """Those of ge, gt, le, lt that a field has."""
    return {name: getattr(rule, name) for rule in field.metadata for name in COMPARE if hasattr(rule, name)}


def _integers(name: str, value: int) -> Iterator[int]:
    if value <= FEW and "heads" not in name:
        yield from range(2 * FEW - 1)
    yield from (value * 2**k // 4 for k in range(5))


def _floats(name: str, value: float, limits: Mapping[str, float]) -> Iterator[float]:
    if name in RANGES:
        yield from RANGES[name]
    elif 1 in (limits.get("le"), limits.get("lt")):
        yield from SHARES
    elif value == 0:
        yield from SMALL_WEIGHTS
    else:
        yield from (float(f"{factor * value:.2g}") for factor in FACTORS)
        yield 0.0


@cache
def notes(kind: type[Settings]) -> dict[str, str]:
    """The strings under the fields of a settings class, its bases' included, each on one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(Settings)]):
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # A class typed into an old Python shell has no source.
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


class Settable:
    """All controls of one method's run: `data`, `training` and `model`, and the config that they say."""

    def __init__(self, config: RunConfig) -> None:
        self.base = config
        users = sorted({config.max_users, *USERS}, key=lambda n: (n is None, n))
        self.data = {"max_users": slider("users", users, config.max_users),
                     "seed": slider("seed", sorted({config.seed, *SEEDS}), config.seed)}  # fmt: skip
        self.training = controls(TrainConfig, config.training)
        self.model = controls(type(config.model), config.model)

    def widgets(self) -> list[ipywidgets.Widget]:
        """All controls in the order they are read."""
        return [*self.data.values(), *self.training.values(), *self.model.values()]

    def config(self) -> RunConfig:
        """The run config that the controls say.

        Raises:
            pydantic.ValidationError: values that do not go together.
        """
        chosen = {name: held(widget) for name, widget in self.data.items()}
        parts = {"training": (self.base.training, self.training), "model": (self.base.model, self.model)}
        laid = {part: _laid(_tree(base), widgets) for part, (base, widgets) in parts.items()}
        return RunConfig.model_validate(self.base.model_dump(exclude={"training", "model"}) | chosen | laid)


def _tree(settings: Settings) -> dict[str, Any]:
    """Every field, those that a dump leaves out at their default included."""
    values = ((name, getattr(settings, name)) for name in type(settings).model_fields)
    return {name: _tree(value) if isinstance(value, Settings) else value for name, value in values}


def _laid(values: dict[str, Any], widgets: Mapping[str, ipywidgets.Widget]) -> dict[str, Any]:
    """`values` with the widgets' values at their paths."""
    for path, widget in widgets.items():
        *groups, name = path.split(".")
        place = values
        for group in groups:
            place = place[group]
        place[name] = held(widget)
    return values


def changes(config: RunConfig) -> str:
    """How a config differs from its method's preset, as `beta=0.1, backbone.layers=3`; empty if it does not."""
    own = RunConfig(method=config.method, dataset=config.dataset, preset=config.preset)
    pairs = [(config.training, own.training), (config.model, own.model)]
    ours, theirs = ({k: v for pair in pairs for k, v in _flat(_tree(pair[side]))} for side in (0, 1))
    # A group that one side leaves out is a single None there.
    return ", ".join(f"{name}={_word(value)}" for name, value in ours.items() if theirs.get(name, ...) != value)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
