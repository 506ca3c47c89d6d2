"""Language models with pretrained weights: a small one that unisr pretrains, SmolLM2, or any other, T5s too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from unisr.config import Settings
from unisr.models.adapters import with_adapters
from unisr.models.smollm2 import smollm2
from unisr.pretrained import Pretrained
from unisr.training.pretraining import TestbedConfig, blocks_of, byte_tokenizer, initial, testbed

GENERAL_TOKENS = 50_000
"""At most so many tokens of general text are handed to a method."""
Adapter = Literal["none", "lora", "dora", "task_lora"]


class CausalLMConfig(Settings):
    """Which language model.

    `testbed` is a small Llama that is pretrained here, once, on prose that ships with installed packages; `smollm2` is
    SmolLM2-135M-Instruct from the package index (93 MB, converted once); `random` has the testbed's sizes, the
    weights that its pretraining starts from and bytes as tokens. Any other name is a model hub id or a folder in the
    hub's format; an encoder–decoder model as well, which reads the prompt with its encoder.
    """

    name: str = "testbed"
    testbed: TestbedConfig = TestbedConfig()
    """Sizes and pretraining of `testbed`; of `random` the sizes alone."""


def load_tokenizer(config: CausalLMConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the language model, see `load_lm`."""
    if config.name == "random":
        return byte_tokenizer()
    return _source(config).tokenizer()


def load_lm(config: CausalLMConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and language model in fp32, without dropout of its own making.

    Raises:
        ConfigError: the name is none of those known, nor a folder, nor a reachable hub id; or the model writes no text.
        DataError: SmolLM2 or the prose for the testbed cannot be had.
    """
    tokenizer = load_tokenizer(config)
    if config.name == "random":
        return tokenizer, initial(config.testbed, tokenizer)
    return tokenizer, _source(config).language_model()


def read(lm: nn.Module, tokens: Tensor, **options: object) -> ModelOutput:
    """The model's outputs on text [N, T]; a decoder beside an encoder reads the same tokens, unshifted (released)."""
    both = {"decoder_input_ids": tokens} if lm.config.is_encoder_decoder else {}
    return lm(input_ids=tokens, use_cache=False, **both, **options)


def general_blocks(config: CausalLMConfig, *, length: int = 128) -> Tensor:
    """General prose for null spaces in the model's tokens, [N, length] int64, at most `GENERAL_TOKENS` in all."""
    from unisr.data.prose import prose

    return blocks_of(load_tokenizer(config), prose("projection"), length=length, limit=GENERAL_TOKENS)


def linear_layers(lm: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the model's blocks by name, without its head."""
    head = lm.get_output_embeddings()
    return {name: part for name, part in lm.named_modules() if isinstance(part, nn.Linear) and part is not head}


def norm_gains(lm: nn.Module) -> list[nn.Parameter]:
    """All vectors of the model: gains of its norms, and biases where it has them."""
    return [p for p in lm.parameters() if p.ndim < 2]


def adapted(lm: PreTrainedModel, kind: Adapter, *, rank: int, alpha: int) -> PreTrainedModel:
    """The model with peft's low-rank updates of all `linear_layers` in place; these alone are trainable.

    lora: W + (alpha / rank) B A. dora: the same with a trained norm of each row of outputs. task_lora: one LoRA for
    each of the tasks `rec` and `src`; `adapter_of` says which acts.
    """
    from peft import LoraConfig

    targets = sorted({name.rsplit(".", 1)[-1] for name in linear_layers(lm)})
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, use_dora=kind == "dora")
    if kind != "task_lora":
        return with_adapters(lm, lora).get_base_model()
    model = with_adapters(lm, lora, "rec")
    model.add_adapter("src", lora)
    _both_trainable(model.get_base_model())
    return model.get_base_model()


@contextmanager
def adapter_of(lm: PreTrainedModel, task: str, kind: Adapter) -> Iterator[None]:
    """The adapter of `task` acts in this block, where the model has one for each task; else nothing changes."""
    if kind == "task_lora":
        from peft.tuners.tuners_utils import set_adapter

        set_adapter(lm, task)
        # peft freezes the adapter that does not act, which would drop it from optimizer and checkpoint.
        _both_trainable(lm)
    yield


def _both_trainable(lm: nn.Module) -> None:
    from peft.tuners.tuners_utils import set_requires_grad

    set_requires_grad(lm, ["rec", "src"], True)


def _source(config: CausalLMConfig) -> Pretrained:
    made = {"testbed": lambda: testbed(config.testbed), "smollm2": smollm2}
    folder = made[config.name]() if config.name in made else config.name
    return Pretrained(str(folder), f"language model {config.name!r}", "'testbed', 'smollm2' or 'random'")
