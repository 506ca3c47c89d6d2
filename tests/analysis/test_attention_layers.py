"""Which modules are self-attention, and which of them both tasks share."""

from __future__ import annotations

import pytest
from torch import nn

from tests.contract import Setting
from tests.training.tiny import TinyScorer
from unisr import registry
from unisr.analysis.attention_layers import NoAttentionError, attention_layers, shared_layer
from unisr.config import ModelConfig
from unisr.data.schema import Dataset
from unisr.models.layers import Attention
from unisr.models.search.tem import TEM

SHARED = {
    "GenSR": ("backbone.model.encoder.block.1.layer.0.SelfAttention", 6),
    "UniSAR": ("merged.blocks.0.attend", 5),
    "UnifiedSSR": ("encoder.blocks.1.attend", 2),
    "USER": ("past.blocks.0.attend", 3),
    "BSR": ("backbone.model.encoder.block.1.layer.0.SelfAttention", 4),
}
"""The counterpart of the paper's layer, and how many self-attention layers there are at the quick preset."""


@pytest.mark.parametrize("method", SHARED)
def test_the_shared_layer_of_joint_methods(world: Dataset, method: str) -> None:
    scorer = Setting(world, registry.method(method)).build()
    layers = attention_layers(scorer)
    assert (shared_layer(scorer), len(layers)) == SHARED[method]
    modules = dict(scorer.named_modules())
    assert all(modules[name] is layer for name, layer in layers.items())
    assert list(layers) == [name for name in modules if name in layers], "in the order of registration"
    assert all(sum(1 for _ in layer.parameters()) for layer in layers.values())


def test_a_method_of_one_task_has_layers_too(world: Dataset) -> None:
    assert len(attention_layers(Setting(world, TEM).build())) >= 1


def test_without_attention_the_error_names_what_to_look_at(world: Dataset) -> None:
    scorer = Setting(world, registry.method("JSR")).build()
    with pytest.raises(NoAttentionError, match="JSR has no self-attention layer.*groups"):
        attention_layers(scorer)
    with pytest.raises(NoAttentionError):
        shared_layer(scorer)


def with_parts(**parts: nn.Module) -> TinyScorer:
    scorer = TinyScorer(ModelConfig())
    for name, part in parts.items():
        setattr(scorer, name, part)
    return scorer


def test_torchs_layers_and_cross_attention() -> None:
    """A torch decoder layer has self_attn and multihead_attn: the second one is cross-attention."""
    scorer = with_parts(
        inside=nn.TransformerDecoderLayer(8, 2, 8),
        cross=Attention(8, 2),
        rec=nn.ModuleDict({"attend": Attention(8, 2)}),
    )
    assert list(attention_layers(scorer)) == ["inside.self_attn", "rec.attend"]
    assert shared_layer(scorer) == "inside.self_attn"


def test_layers_of_one_task_or_a_decoder_are_not_shared() -> None:
    scorer = with_parts(rec=nn.ModuleDict({"attend": Attention(8, 2)}), decoder=nn.ModuleList([Attention(8, 2)]))
    with pytest.raises(NoAttentionError, match=r"rec\.attend, decoder\.0: name one"):
        shared_layer(scorer)
