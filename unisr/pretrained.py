"""Models and tokenizers from the model hub, or from a folder in its format; weights from safetensors alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisr.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pretrained:
    """What a folder or hub id holds; models come in fp32.

    Raises:
        ConfigError: by each method, where there is no such folder or hub id, or it holds none of the kind.
    """

    source: str
    name: str
    """As the user knows it, for errors: "encoder 'minilm'"."""
    instead: str
    """Names that need no hub, for errors."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._loaded("AutoTokenizer")

    def encoder(self) -> PreTrainedModel:
        """A model without a head."""
        return self._weights("AutoModel")

    def language_model(self) -> PreTrainedModel:
        """A causal or encoder–decoder model that writes text."""
        both = self._loaded("AutoConfig").is_encoder_decoder
        return self._weights("AutoModelForSeq2SeqLM" if both else "AutoModelForCausalLM")

    def _weights(self, auto: str) -> PreTrainedModel:
        return self._loaded(auto, use_safetensors=True, dtype="float32")

    def _loaded(self, auto: str, **options: object) -> Any:
        # Imported here because it takes seconds, which who loads no such model need not pay.
        import transformers

        # Weights load in a second or two: a bar would only stay behind in a notebook.
        transformers.utils.logging.disable_progress_bar()
        try:
            return getattr(transformers, auto).from_pretrained(self.source, **options)
        except (OSError, ValueError) as error:
            where = "this folder" if Path(self.source).exists() else "the model hub under this id"
            raise ConfigError(
                f"{self.name}: {where} gave no usable model ({error}); "
                f"give a folder with config.json, safetensors weights and a tokenizer, or use {self.instead}"
            ) from error
