"""What the learned ids share: multilayer perceptrons, settings and a training loop for whole tables of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from unisr.config import Settings

START_ROWS = 1024
"""Samples that the codes' k-means start sees, if a batch is not larger: GenSAR's first batch."""


class AutoencoderConfig(Settings):
    """Sizes and training of an autoencoder of item vectors."""

    hidden: tuple[int, ...] = (128, 64)
    """Widths between vector and latent; the decoder mirrors them."""
    latent: int = Field(32, ge=1)
    commitment: float = Field(0.25, ge=0)
    """Weight of |r - sg(e)|², which pulls what is quantized toward its code."""
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    warmup_epochs: int = Field(10, ge=0)
    """Epochs of linear rise of the learning rate, which falls linearly to 0 thereafter."""
    clip_norm: float = Field(1.0, gt=0)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, none last; Xavier-normal weights, biases 0."""
    layers: list[nn.Module] = []
    for inner, outer in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(inner, outer)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def batches(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """All n rows, shuffled, in batches of at most `size`."""
    return torch.randperm(n, generator=generator).split(size)


def first_rows(n: int, config: AutoencoderConfig, generator: torch.Generator) -> Tensor:
    """Rows that the codes start from, drawn from n."""
    return batches(n, max(config.batch_size, START_ROWS), generator)[0]


def train(
    parameters: Iterable[nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    n: int,
    config: AutoencoderConfig,
    generator: torch.Generator,
    *,
    after_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """Minimize `loss_of(rows)` by AdamW; the mean loss of each epoch.

    rows: [b] of n, every row once an epoch. `after_epoch` is called with the number of epochs done.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = -(-n // config.batch_size)
    rise, total = config.warmup_epochs * steps, config.epochs * steps
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (rise + 1), (total - step) / max(total - rise, 1), 1.0)
    )
    history = []
    for epoch in range(config.epochs):
        summed = 0.0
        for rows in batches(n, config.batch_size, generator):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            rate.step()
            summed += float(loss.detach()) * len(rows)
        history.append(summed / n)
        if after_epoch:
            after_epoch(epoch + 1)
    return history
