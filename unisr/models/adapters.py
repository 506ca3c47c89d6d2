"""peft's low-rank updates in a model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

RENAMED = "`is_gradient_checkpointing` is deprecated"
"""What transformers says to peft, and no user can mend."""


def with_adapters(model: nn.Module, lora: LoraConfig, name: str = "default") -> PeftModel:
    """The model with updates called `name` in place, which alone are trainable."""
    # It takes a second to import, and few runs need it.
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", RENAMED, FutureWarning)
        return get_peft_model(model, lora, adapter_name=name)
