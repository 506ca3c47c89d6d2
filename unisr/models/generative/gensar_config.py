"""GenSAR's settings and presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unisr.config import ModelConfig, TrainConfig
from unisr.models.backbone import BackboneConfig
from unisr.models.generative.gensar_tasks import RELEASED, Ratios
from unisr.models.identifiers import DualConfig
from unisr.models.identifiers.dual_purpose import PAPER as IDS


class GenSARConfig(ModelConfig):
    backbone: BackboneConfig = BackboneConfig(layers=1)
    """A small T5 built here, or a T5 of the hub or a folder, such as google-t5/t5-small."""
    text_encoder: str = "minilm"
    """Of the semantic vectors, see `unisr.data.text_vectors`."""
    identifiers: Literal["dual", "semantic", "collaborative"] = "dual"
    """Two ids that share their first codes, or one id of either view for both tasks."""
    dual: DualConfig = DualConfig()
    """How the ids are fitted; its `kind` follows `identifiers`."""
    history: int = Field(5, ge=1)
    """Latest events read of either task."""
    query_tokens: int = Field(16, ge=1)
    """Tokens kept of a query; the released code keeps 64."""
    text_tokens: int = Field(32, ge=1)
    """Tokens kept of an item's text in `text_to_id` and `id_to_text`; the released code keeps 256."""
    alignment: bool = True
    """Whether the four tasks beside next item are trained."""
    ratios: Ratios = Ratios()

    @model_validator(mode="after")
    def _one_kind(self) -> GenSARConfig:
        if self.dual.kind not in ("dual", self.identifiers):
            raise ValueError(f"dual.kind {self.dual.kind!r} is not identifiers {self.identifiers!r}; set identifiers")
        return self


def _training(epochs: int, examples: int, **changes: float) -> TrainConfig:
    """Small batches: more steps for the same rows."""
    settings = dict(epochs=epochs, epoch_examples=examples, batch_size=32, negatives=1, learning_rate=4e-3,
                    schedule="linear", warmup_steps=100, clip_norm=1.0, patience=epochs, validation_users=200,
                    evaluation_batch=64)  # fmt: skip
    return TrainConfig.model_validate({**settings, **changes})


THRIFTY = Ratios(query=0.1, adhoc=0.5, text_to_id=0.25, id_to_text=0.1)
"""Most rows where the encoder reads little."""

PAPER = (
    TrainConfig(
        epochs=200, batch_size=64, accumulation=128, negatives=1, learning_rate=1e-3, weight_decay=1e-7,
        schedule="cosine", warmup_steps=254, clip_norm=1.0, patience=200, validation_users=10_000, evaluation_batch=64,
    ),
    GenSARConfig(
        backbone=BackboneConfig(name="google-t5/t5-small"), text_encoder="BAAI/bge-base-en-v1.5",
        dual=IDS, query_tokens=64, text_tokens=256, ratios=RELEASED,
    ),
)  # fmt: skip
"""The released settings for Amazon Electronics, fp32. A step of 8,192 sequences is here 128 batches of 64 on one GPU;
on n GPUs set accumulation to 128 / n (released: 16 on 8). 254 steps are its 1 % of warm-up. Ours: next-item rows are as
many as the data have (released: 100,000 of search an epoch)."""

PRESETS: dict[str, tuple[TrainConfig, ModelConfig]] = {
    "quick": (
        _training(2, 1000, warmup_steps=10, validation_users=50),
        GenSARConfig(text_encoder="lsa", dual=DualConfig(codes=16, epochs=40), history=3, ratios=THRIFTY),
    ),
    "small": (_training(6, 9_000), GenSARConfig(ratios=THRIFTY)),
    "full": (_training(20, 10_000, validation_users=400), GenSARConfig(ratios=THRIFTY)),
    "paper": PAPER,
}
