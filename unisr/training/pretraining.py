"""The testbed: a small Llama pretrained on general English, so that tuning it has something general to spoil."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from unisr.config import Settings
from unisr.data.download import put_in_place
from unisr.errors import ConfigError, DataError
from unisr.lock import exclusive
from unisr.paths import data_dir
from unisr.progress import progress
from unisr.random import seed_from, torch_generator
from unisr.seals import damaged, seal

FORMAT = 1
"""Raised when the same settings and prose give another model, so that stored ones are made again."""
SPECIAL = ("<pad>", "<end>")
"""In the order of their ids; <end> begins and ends a document."""
HELD_OUT = 0.03
"""Share of the blocks, the last ones, that the card's held-out loss is taken on."""


class TestbedConfig(Settings):
    """Sizes of a Llama and of its pretraining. The default takes about 5 minutes of one core, once."""

    __test__ = False
    width: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(352, ge=8)
    vocabulary: int = Field(4096, ge=258)
    """Tokens of the byte-level BPE, with the 256 bytes and two special ones."""
    steps: int = Field(1200, ge=0)
    batch_size: int = Field(8, ge=1)
    block: int = Field(128, ge=8)
    """Tokens of a row."""
    learning_rate: float = Field(4e-3, gt=0)
    """At its peak; a twentieth of the steps warms up, a cosine goes down to a tenth."""


def testbed(settings: TestbedConfig) -> Path:
    """Folder of the pretrained model in the hub's format, under data_dir()/language_models.

    Pretrained when it is not there or damaged: next-token cross-entropy over the part `pretraining` of
    `unisr.data.prose`, AdamW, no dropout. `card.json` beside the weights says what it was trained on, and its losses in
    nats per token.

    Raises:
        DataError: there is too little prose for a single batch.
    """
    from unisr.data.prose import prose

    texts = prose("pretraining")
    text = json.dumps([FORMAT, settings.model_dump(mode="json"), texts])
    target = data_dir() / "language_models" / f"testbed-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    with exclusive(target.with_name(f"{target.name}.lock")):
        if not (target / "card.json").exists() or damaged(target):
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".testbed-") as folder:
                work = Path(folder) / "made"
                _pretrain(settings, texts, work)
                seal(work)
                put_in_place(work, target)
    return target


def initial(settings: TestbedConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """A Llama of these sizes with tied embeddings; its random weights are always the same."""
    if settings.width % (2 * settings.heads):
        raise ConfigError(
            f"width {settings.width} does not give {settings.heads} heads of an even width; change either"
        )
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=settings.width, intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=1, max_position_embeddings=1024,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(0, "testbed"))
        return LlamaForCausalLM(shape)


def byte_tokenizer(texts: Sequence[str] = (), vocabulary: int = 258) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE of at most `vocabulary` tokens for `texts`; without texts, its tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), min_frequency=2, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[1]
    )


def blocks_of(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, length: int, limit: int | None = None
) -> Tensor:
    """Documents as one stream of tokens, each after the first special token, cut into [N, length] int64.

    limit: at most so many tokens; the rest that fills no block is left out.
    """
    first = document_start(tokenizer)
    stream: list[int] = []
    for text in texts:
        if limit is not None and len(stream) >= limit:
            break
        stream += first + tokenizer(text, add_special_tokens=False)["input_ids"]
    count = min(len(stream), limit if limit is not None else len(stream)) // length
    return torch.tensor(stream[: count * length], dtype=torch.long).reshape(count, length)


def document_start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that a document begins with; empty where the tokenizer has none."""
    return [t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None][:1]


def _pretrain(settings: TestbedConfig, texts: Sequence[str], folder: Path) -> None:
    """Tokenizer, weights and card into `folder`."""
    tokenizer = byte_tokenizer(texts, settings.vocabulary)
    blocks = blocks_of(tokenizer, texts, length=settings.block)
    held = max(1, round(HELD_OUT * len(blocks)))
    train, test = blocks[:-held], blocks[-held:]
    if len(train) < settings.batch_size:
        raise DataError(f"testbed: {len(texts)} documents of prose give {len(train)} rows of {settings.block} tokens; "
                        f"lower testbed.block or testbed.batch_size ({settings.batch_size})")  # fmt: skip
    model = initial(settings, tokenizer)
    losses = _descend(model, train, settings)
    card = {
        "settings": settings.model_dump(mode="json"),
        "documents": len(texts),
        "tokens": blocks.numel(),
        "tokens_read": settings.steps * settings.batch_size * settings.block,
        "parameters": model.num_parameters(),
        "held_out_loss": held_out_loss(model, test),
        "unigram_loss": _unigram_loss(train, test, len(tokenizer)),
        "losses": [round(loss, 4) for loss in losses],
    }
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps(card, indent=1))


def _descend(model: LlamaForCausalLM, blocks: Tensor, settings: TestbedConfig) -> list[float]:
    """Train in place on rows drawn epoch by epoch; the loss of each step, nats per token."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.steps))
    random, order, losses = torch_generator(0, "testbed", "order"), torch.empty(0, dtype=torch.long), []
    model.train()
    for _ in progress(range(settings.steps), "testbed"):
        if len(order) < settings.batch_size:
            order = torch.randperm(len(blocks), generator=random)
        rows, order = order[: settings.batch_size], order[settings.batch_size :]
        loss = _loss(model, blocks[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate."""
    warm = max(1, steps // 20)
    cosine = (1 + torch.cos(torch.tensor(torch.pi * step / max(1, steps))).item()) / 2
    return min((step + 1) / warm, 0.1 + 0.9 * cosine)


def _loss(model: LlamaForCausalLM, rows: Tensor) -> Tensor:
    """Mean -log p of the tokens of rows [B, T] after the first, nats."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, blocks: Tensor) -> float:
    """Mean -log p of the tokens of blocks [N, T] after the first, nats."""
    return sum(float(_loss(model, rows)) * len(rows) for rows in blocks.split(16)) / len(blocks)


def _unigram_loss(train: Tensor, test: Tensor, vocabulary: int) -> float:
    """The same for token frequencies of `train`, one added to each: what a model without context reaches, nats."""
    counts = torch.bincount(train.flatten(), minlength=vocabulary).double() + 1
    return float(-(counts / counts.sum()).log()[test[:, 1:]].mean())
