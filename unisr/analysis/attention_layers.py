"""Self-attention layers of any method, and which of them stands for "the same self-attention layer" of the GenSR paper.

The paper (Sec. 6.5) compares gradients of "the same self-attention layer in the transformer encoder" of GenSR and
UniSAR and names no layer. Here it is the last self-attention layer of the encoder that both tasks go through.
"""

from __future__ import annotations

from torch import nn

from unisr.data.schema import TASKS
from unisr.errors import UnisrError
from unisr.models.base import Scorer
from unisr.models.layers import Attention

CROSS = ("cross", "encdecattention", "multihead_attn", "crossattention")
"""Last parts of names (in lower case) under which the suite, transformers and torch keep cross-attention."""
DECODERS = ("decoder", "fusion")
"""Parts of names of stacks that are no encoder (`fusion` is UniSAR's decoder)."""


class NoAttentionError(UnisrError):
    """A method has no self-attention layer, or none that both tasks share."""


def attention_layers(scorer: Scorer) -> dict[str, nn.Module]:
    """The self-attention modules by name, in the order in which the method registers them.

    Found are the suite's `Attention`, torch's `MultiheadAttention` and the innermost `…Attention` modules of the
    transformers library; cross-attention and pooling against a candidate are left out.

    Raises:
        NoAttentionError: there is none; `unisr.analysis.gradient_conflict.groups` has the parameters by group.
    """
    found = {name: part for name, part in scorer.named_modules() if _is_attention(part)}
    own = {name: part for name, part in found.items() if name.rsplit(".", 1)[-1].lower() not in CROSS}
    if not own:
        raise NoAttentionError(
            f"{scorer.card.name} has no self-attention layer; look at its groups of parameters instead "
            "(unisr.analysis.gradient_conflict.groups)"
        )
    return own


def shared_layer(scorer: Scorer) -> str:
    """The name of the counterpart of the paper's layer: the last one of the encoder that both tasks share.

    Layers of a decoder and those under a module named `rec` or `src` (one per behavior, as in UniSAR) are no
    candidates. A language model's layers go before the method's own ones: it reads what those encode. So GenSR gives
    the last layer of its T5 encoder, UniSAR the last one of its encoder of the merged history.

    Raises:
        NoAttentionError: no layer is left; the message has the layers there are.
    """
    layers = attention_layers(scorer)
    shared = {name: part for name, part in layers.items() if not set(name.split(".")) & {*DECODERS, *TASKS}}
    if not shared:
        raise NoAttentionError(
            f"{scorer.card.name} has no self-attention layer in an encoder that both tasks share; it has "
            f"{', '.join(layers)}: name one of them"
        )
    language = [name for name, part in shared.items() if _of_transformers(part)]
    return language[-1] if language else list(shared)[-1]


def _of_transformers(part: nn.Module) -> bool:
    return type(part).__module__.startswith("transformers.") and type(part).__name__.endswith("Attention")


def _is_attention(part: nn.Module) -> bool:
    if isinstance(part, (Attention, nn.MultiheadAttention)):
        return True
    inner = [inside for inside in part.modules() if inside is not part]
    return _of_transformers(part) and not any(map(_of_transformers, inner))
