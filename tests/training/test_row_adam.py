"""Updates of the rows read: against AdamW on the rows, their norm, and trainings with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.contract import Setting
from tests.training.tiny import TinyLoader, TinyScorer, tiny_scorer
from unisr import registry
from unisr.config import RunConfig, TrainConfig
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.layers import mean_embedding
from unisr.training import train
from unisr.training.row_adam import RowAdamW, clip_norm, sparse_tables

STEPS = ([1, 2, 2], [2, 5], [1, 2, 5])
"""Rows read in each step."""


def trained(kind: type[torch.optim.AdamW], *, sparse: bool, steps: tuple[list[int], ...] = STEPS) -> torch.Tensor:
    torch.manual_seed(0)
    table = nn.Embedding(7, 3, sparse=sparse)
    optimizer = kind(table.parameters(), lr=0.1, weight_decay=0.2)
    for rows in steps:
        (table(torch.tensor(rows)) - 1).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return table.weight.detach()


def test_rows_that_every_step_reads_move_as_with_adamw_and_others_stay() -> None:
    start = trained(RowAdamW, sparse=True, steps=())
    rows, whole = (trained(kind, sparse=kind is RowAdamW) for kind in (RowAdamW, torch.optim.AdamW))
    torch.testing.assert_close(rows[2], whole[2])
    unread = [0, 3, 4, 6]
    assert torch.equal(rows[unread], start[unread]) and not torch.equal(whole[unread], start[unread])


def test_without_decay_a_row_read_again_moves_as_sparse_adam_says() -> None:
    def run(kind: type[torch.optim.Optimizer], **settings: float) -> torch.Tensor:
        torch.manual_seed(0)
        table = nn.Embedding(7, 3, sparse=True)
        optimizer = kind(table.parameters(), lr=0.1, **settings)
        for rows in STEPS:
            optimizer.zero_grad()
            table(torch.tensor(rows)).cos().sum().backward()
            optimizer.step()
        return table.weight.detach()

    torch.testing.assert_close(run(RowAdamW, weight_decay=0.0), run(torch.optim.SparseAdam))


def test_dense_gradients_are_updated_as_by_adamw() -> None:
    assert torch.equal(trained(RowAdamW, sparse=False), trained(torch.optim.AdamW, sparse=False))


@pytest.mark.parametrize("most", [0.1, 1e6])
def test_the_norm_is_that_of_dense_gradients(most: float) -> None:
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        parts = nn.ModuleList([nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 2)])
        parts[1](parts[0](torch.tensor([3, 3, 5]))).square().sum().backward()
        norm = clip_norm(parts.parameters(), most)
        found.append([norm, *(p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parts.parameters())])
    torch.testing.assert_close(*found)


def test_large_trained_tables_alone_are_sparse() -> None:
    parts = nn.ModuleList([nn.Embedding(9, 2), nn.Embedding(4, 2), nn.Embedding(9, 2)])
    parts[2].weight.requires_grad_(False)
    assert sparse_tables(parts, 5) and not sparse_tables(parts, 10)
    assert [part.sparse for part in parts] == [True, False, False]


@pytest.mark.parametrize("method", ["UniSAR", "SESRec", "DIN", "NRHUB", "JSR", "TEM"])
def test_methods_that_look_items_up_give_sparse_gradients(method: str, world: Dataset) -> None:
    setting = Setting(world, registry.method(method))
    scorer = setting.build().train()
    assert sparse_tables(scorer, world.n_items)
    sum(scorer.losses(setting.training_batch(scorer, 16)).values()).backward()
    tables = [part.weight for part in scorer.modules() if isinstance(part, nn.Embedding) and part.sparse]
    assert tables and all(table.grad.is_sparse for table in tables if len(table) == world.n_items + 1)


@pytest.mark.parametrize("sparse", [True, False])
def test_means_of_words_give_the_gradient_that_the_table_asks_for(sparse: bool) -> None:
    table = nn.Embedding(5, 3, padding_idx=0, sparse=sparse)
    means = mean_embedding(table, torch.tensor([[1, 3, 0], [0, 0, 0]]))
    torch.testing.assert_close(means[0], table.weight[[1, 3]].mean(0))
    assert not means[1].any()
    means.sum().backward()
    assert table.weight.grad.is_sparse == sparse


def test_a_training_learns_and_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    settings = TrainConfig(epochs=3, batch_size=8, learning_rate=0.05, sparse_rows=10)

    def run(epochs: int, folder: Path | None) -> tuple[TinyScorer, list[float]]:
        scorer = tiny_scorer()
        config = settings.model_copy(update={"epochs": epochs})
        log = train(scorer, TinyLoader(), config, seed=0, checkpoints=folder)
        return scorer, [row["loss"] for row in log.rows]

    whole, losses = run(3, None)
    assert whole.items.sparse and losses[-1] < losses[0]
    run(2, tmp_path)
    again, _ = run(3, tmp_path)
    assert torch.equal(whole.items.weight, again.items.weight)


@pytest.mark.parametrize("other", [{"aggregator": "pcgrad"}, {"subspace": {"rank": 2}}])
def test_other_optimizers_are_refused_where_a_table_is_large(other: dict[str, object]) -> None:
    config = TrainConfig.model_validate({"sparse_rows": 10, **other})
    with pytest.raises(ConfigError, match="sparse_rows"):
        train(tiny_scorer(), TinyLoader(), config, seed=0)


def test_the_setting_is_in_a_config_only_where_it_is_asked_for() -> None:
    plain = RunConfig(method="UniSAR", dataset="synthetic")
    assert "sparse_rows" not in plain.model_dump()["training"]
    asked = RunConfig(method="UniSAR", dataset="synthetic", training={"sparse_rows": 9})
    assert asked.model_dump()["training"]["sparse_rows"] == 9 and asked.config_id != plain.config_id
