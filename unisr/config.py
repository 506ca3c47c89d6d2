"""Typed configuration: one `RunConfig` describes one run and has one stable id."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from unisr.errors import ConfigError, UnknownNameError

PROTOCOL_VERSION = 1
"""Part of every config id: raised when data, candidates or evaluation change results."""

PRESETS = ("quick", "small", "full", "paper")
Preset = Literal["quick", "small", "full", "paper"]
CandidateKind = Literal["uniform", "popularity", "hard", "full"]
HistoryRule = Literal["clean", "released"]

QUICK_USERS = 200
"""Users kept by the quick preset (a keyed sample of the dataset's users)."""


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown field is an error, as is an infinite number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def later(default: Any, **bounds: Any) -> Any:
    """A field that runs were stored without: at its default it is in no dump, and so their ids stay as they are.

    A `RunConfig` dumps it all the same where its preset has another value: a dump read again is the same config.
    """
    return Field(default, exclude_if=lambda value: value == default, **bounds)


class ModelConfig(Settings):
    """Base of a method's hyper-parameters; each method class has its own `Config`."""


class NullSpaceConfig(Settings):
    """Directions that general text hardly uses; a covered weight may change on these alone."""

    side: Literal["input", "output"] = "input"
    """input: P from second moments of a layer's inputs, applied to the final update from the right, so that the update
    is zero on all other inputs. output: the released form, P from those of its outputs, applied to gradients before
    basis and Adam, which lets a share of the update leak."""
    energy: float | None = Field(0.01, gt=0, lt=1)
    """Share of the second moment's trace that all directions of the null space hold together at most."""
    threshold: float | None = Field(None, gt=0)
    """In place of `energy`: an absolute bound on an eigenvalue (released: 2e-2)."""
    tokens: int = Field(20_000, ge=1)
    """Tokens of general text that the second moments are taken over."""

    @model_validator(mode="after")
    def _one_rule(self) -> NullSpaceConfig:
        if (self.energy is None) == (self.threshold is None):
            raise ValueError("give one of energy and threshold; set the other to null")
        return self


class SubspaceConfig(Settings):
    """The GEMS optimizer (`unisr.training.gems`): low-rank subspaces of gradients, in which Adam works."""

    rank: int = Field(32, ge=1)
    """Of the shared subspace, at most the shorter side of a weight; the tasks' have half of it, at least 1."""
    gap: int = Field(50, ge=1)
    """Steps between refreshes of the bases (T)."""
    scale: float = Field(1.0, gt=0)
    """α: what an update is multiplied by when it is mapped back."""
    task_subspaces: bool = True
    """False keeps the shared subspace alone, which without a null space is GaLore."""
    basis: Literal["svd", "randomized", "random"] = "svd"
    """Singular vectors of the gradient by a whole or a randomized SVD, or random directions."""
    moments: Literal["keep", "reset", "rotate"] = "keep"
    """What becomes of Adam's moments when a basis is refreshed; released: keep."""
    orthogonal: bool = False
    """Whether the tasks' bases are taken from what the shared basis leaves."""
    task_weights: Literal["equal", "shares", "conflict"] = "equal"
    """Weights of the tasks' updates: 1 and 1; the released heuristic of loss, norm and count shares; or `equal` less
    the part in which the tasks' updates oppose each other."""
    passes: Literal["counted", "three"] = "counted"
    """The shared gradient: the tasks' own, weighted by their counts, or from a third pass over the whole batch."""
    state: Literal["fp32", "bf16"] = "fp32"
    """Precision of bases and moments."""
    null_space: NullSpaceConfig | None = None


class TrainConfig(Settings):
    """How a method is trained. One `epoch` draws `epoch_examples` positives."""

    tasks: tuple[Literal["rec", "src"], ...] | None = later(None, min_length=1)
    """Tasks that are trained and ranked; None takes all of the method's. The examples of the others are left out of
    every batch, so that a task alone has as many examples in as many steps as it has beside the others."""
    epochs: int = Field(20, ge=0)
    """Upper bound on epochs; 0 leaves the model as built."""
    epoch_examples: int | None = Field(None, ge=1)
    """Positives drawn per epoch over all trained tasks; None takes every one."""
    batch_size: int = Field(512, ge=1)
    """Positives in a batch (users, for methods trained on whole sequences)."""
    negatives: int = Field(4, ge=1)
    """Sampled negatives per positive."""
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled (AdamW), on tensors of two or more dimensions only."""
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "constant"
    """linear and cosine decay to 0 over `epochs`; plateau divides by 10 after 3 epochs without gain."""
    warmup_steps: int = Field(0, ge=0)
    clip_norm: float | None = Field(5.0, gt=0)
    accumulation: int = Field(1, ge=1)
    """Batches per optimiser step."""
    aggregator: Literal["sum", "pcgrad", "cagrad", "mgda", "nash"] = later("sum")
    """How the tasks' gradients become one (`unisr.training.aggregation`); all but sum need a joint method."""
    subspace: SubspaceConfig | None = later(None)
    """Trains the weights that the method covers with GEMS or GaLore, the others with AdamW; None is AdamW for all."""
    sparse_rows: int | None = later(None, ge=1)
    """Tables of at least so many rows are updated in the rows that a step reads alone (`unisr.training.row_adam`, in
    one process); None updates all rows of every table."""
    precision: Literal["no", "bf16"] = "no"
    patience: int = Field(5, ge=1)
    """Epochs without a better mean validation NDCG@5 before training stops."""
    validation_users: int | None = Field(None, ge=1)
    """Users of the validation split that are ranked after each epoch; None takes all."""
    evaluation_batch: int = Field(128, ge=1)
    """Queries ranked at once; changes speed and memory, never a score."""


class RunConfig(Settings):
    """One method on one dataset with one seed.

    `training` and `model` may be given as partial dictionaries: they are laid over the method's
    preset and become typed objects, so that a stored config is always complete.

    Raises:
        UnknownNameError: method, dataset or preset is not registered (near names are listed).
        ConfigError: the method has no such preset.
        pydantic.ValidationError: a value is out of range; the message says what is allowed.
    """

    method: str
    dataset: str = "ml-100k"
    preset: Preset = "small"
    seed: int = Field(0, ge=0)
    candidates: CandidateKind = "uniform"
    histories: HistoryRule = "clean"
    max_users: int | None = Field(None, ge=2)
    """Users kept (a keyed sample); the quick preset keeps `QUICK_USERS`."""
    training: TrainConfig
    model: SerializeAsAny[ModelConfig]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        from unisr import registry
        from unisr.data import sources

        if not isinstance(values, dict):
            raise ConfigError(f"a config has fields by name; got {values!r:.80}")
        values = dict(values)
        method = registry.method(values.get("method", ""))
        values["method"] = method.card.name
        sources.source(values.setdefault("dataset", "ml-100k"))
        preset = values.setdefault("preset", "small")
        if preset not in PRESETS:
            raise UnknownNameError("preset", preset, PRESETS)
        if preset not in method.presets:
            raise ConfigError(f"{method.card.name} has no preset {preset!r}; it has {', '.join(method.presets)}")
        if preset == "quick":
            values.setdefault("max_users", QUICK_USERS)
        train, model = method.presets[preset]
        values["training"] = _overlay(TrainConfig, train, values.get("training"))
        values["model"] = _overlay(method.Config, model, values.get("model"))
        if lacking := set(values["training"].tasks or ()) - set(method.card.tasks):
            raise ConfigError(f"training.tasks: {method.card.name} does not do {', '.join(sorted(lacking))}; "
                              f"it does {', '.join(method.card.tasks)}")  # fmt: skip
        return values

    @model_serializer(mode="wrap")
    def _with_departures(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The dump with `later` fields that are at their default where the preset's are not."""
        from unisr import registry

        data = dump(self)
        for part, preset in zip(("training", "model"), registry.method(self.method).presets[self.preset], strict=True):
            own = getattr(self, part)
            for name in set(type(own).model_fields) - set(data.get(part, type(own).model_fields)):
                if getattr(own, name) != getattr(preset, name):
                    data[part][name] = getattr(own, name)
        return data

    @property
    def config_id(self) -> str:
        """12 hexadecimal digits over this config, the protocol, the method's version and the configs it requires."""
        from unisr import registry

        card = registry.method(self.method).card
        required = [config.config_id for config in self.required()]
        text = json.dumps([PROTOCOL_VERSION, card.version, self.model_dump(mode="json"), required], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def required(self) -> list[RunConfig]:
        """Configs of the methods whose tables this one reads: same data, seed and preset."""
        from unisr import registry

        shared = self.model_dump(exclude={"method", "training", "model"})
        return [RunConfig(method=name, **shared) for name in registry.method(self.method).card.requires]


S = TypeVar("S", bound=Settings)


def _overlay(kind: type[S], base: S, given: Any) -> S:
    """`base` with the fields of `given` (a settings object, or a dictionary that is partial at any depth) over it."""
    if isinstance(given, Settings):
        return kind.model_validate(given.model_dump())
    if not isinstance(given, dict | None):
        raise ConfigError(f"{kind.__name__}: settings are fields by name, not {given!r:.80}")
    return kind.model_validate(_laid(base, given or {}))


def _laid(base: Settings, given: dict[str, Any]) -> dict[str, Any]:
    inner = {name: _laid(own, value) for name, value in given.items()
             if isinstance(value, dict) and isinstance(own := getattr(base, name, None), Settings)}  # fmt: skip
    return {**base.model_dump(), **given, **inner}
