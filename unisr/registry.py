"""The list of methods: every scorer class registers itself with a card.

Adding a method is one class and one card in a family module; tables, notebooks and contract tests
find it here.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from unisr.errors import UnknownNameError

if TYPE_CHECKING:
    from unisr.models.base import Scorer

Family = Literal["reference", "recommendation", "search", "joint", "generative"]
TaskName = Literal["rec", "src"]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""Each has a module or package of its name in `unisr.models`."""


@dataclass(frozen=True)
class Card:
    """What a reader must know of a method before trusting its row."""

    name: str
    family: Family
    tasks: tuple[TaskName, ...]
    """Tasks it is trained and evaluated on."""
    paper: str
    """Authors, title, venue and year; or why there is none."""
    signals: tuple[str, ...]
    """What it sees: rec history, search history, current query, past queries, item text, user id, CF table."""
    loss: str
    """Objective and negatives."""
    departures: tuple[str, ...] = ()
    """Every difference from the paper."""
    requires: tuple[str, ...] = ()
    """Methods whose trained tables this one reads; they are run first with the same data and seed."""
    version: int = 1
    """Part of the config id: raised when a change of code changes results."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


_methods: dict[str, type[Scorer]] = {}


def register(cls: type[Scorer]) -> type[Scorer]:
    """Class decorator: put a scorer in the registry under its card's name."""
    _methods[cls.card.name] = cls
    return cls


def methods() -> dict[str, type[Scorer]]:
    """All methods by name, in the order of families, whatever was imported first."""
    for family in FAMILIES:
        importlib.import_module(f"unisr.models.{family}")
    return dict(sorted(_methods.items(), key=lambda item: FAMILIES.index(item[1].card.family)))


def method(name: str) -> type[Scorer]:
    """The scorer class called `name` (case does not matter).

    Raises:
        UnknownNameError: no such method; near names are listed.

    >>> method("sasrec").card.tasks
    ('rec',)
    """
    known = methods()
    folded = {k.lower(): v for k, v in known.items()}
    if str(name).lower() not in folded:
        raise UnknownNameError("method", name, known)
    return folded[str(name).lower()]
