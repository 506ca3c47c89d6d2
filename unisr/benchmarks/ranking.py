"""How fast candidates are ranked and rows trained on: a naive path against the joint and the packed layout.

The naive path does what the official GenSR code does, on our modules: one full prompt per candidate with its own
history encoding, constant prompt text tokenised for every row, `generate()`, softmax over the whole vocabulary.
All paths run in one process on the same random catalogue, interleaved, so that their ratios hold on a busy machine.

    unisr bench ranking [--seconds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unisr.data.batches import Batch
from unisr.data.corpus import Corpus, _word_ids
from unisr.data.schema import Task
from unisr.models.backbone import BackboneConfig
from unisr.models.joint import GenSR, GenSRConfig
from unisr.random import generator, torch_generator

ITEMS, QUERIES, USERS, WORDS, HISTORY, CANDIDATES, NEGATIVES = 5000, 300, 1000, 3000, 20, 100, 4
OFFICIAL_USERS = 14
"""Users of the official code's evaluation batch of 1,400 rows; its training batch of 200 rows is 40 positives."""
VOCABULARY = 32_128
"""flan-t5's; the catalogue's tokenizer is smaller, the embedding and the head are padded to this size."""


def main() -> None:
    """Print one row per path: positions, users/s, rows/s and their ratios to the naive path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="processor seconds spent on each measure")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = measure(given.seconds)
    print(f"{'path':22} {'positions':>16} {'users/s':>9} {'ratio':>7} {'rows/s':>9} {'ratio':>7}")
    for row in rows:
        users, trained = row["users_s"] / rows[0]["users_s"], row["rows_s"] / rows[0]["rows_s"]
        print(
            f"{row['path']:22} {row['positions']:>16} {row['users_s']:9.2f} {users:7.1f}"
            f" {row['rows_s']:9.1f} {trained:7.1f}"
        )
    print(f"naive and joint scores are equal (checked); {given.threads} thread(s), vocabulary {VOCABULARY}")


def measure(seconds: float) -> list[dict[str, float | str]]:
    """One row per path: its name, positions a candidate, users/s ranked and rows/s trained.

    Raises:
        AssertionError: the naive and the joint path do not give equal scores.
    """
    paths = build_paths()
    check_equal(paths["naive"].model)
    rows = [{"path": name, "positions": path.positions, "users_s": 0.0, "rows_s": 0.0} for name, path in paths.items()]
    for row, path in zip(rows, paths.values(), strict=True):
        row["users_s"] = rate(path.rank, path.users, seconds)
        row["rows_s"] = rate(path.train, path.positives * (1 + NEGATIVES), seconds)
    return rows


@dataclass
class Path:
    """One way to rank and to train, with the sizes of its batches."""

    model: GenSR
    positions: str
    rank: Callable[[], Tensor]
    train: Callable[[], None]
    users: int
    positives: int


def build_paths() -> dict[str, Path]:
    """The naive path and ours, on one random catalogue with the official shapes."""
    corpus = random_corpus()
    official = dict(slots="filtered", wording="paper", semantic_unit="token", filter="bilinear", positions=False)
    ours = {
        "joint": dict(layout="joint", **official),
        "joint, concise": dict(layout="joint", slots="filtered"),
        "packed": dict(layout="packed", slots="filtered"),
        "packed, sequences": dict(layout="packed", slots="sequence+filtered"),
    }
    naive = build_model(corpus, layout="joint", **official)
    paths = {"naive": _path(naive, rank_naive, loss_naive, users=OFFICIAL_USERS, positives=40)}
    for name, config in ours.items():
        users = 4 if config["layout"] == "joint" else 16
        paths[name] = _path(build_model(corpus, **config), GenSR.score, loss_ours, users=users, positives=40)
    return paths


def _path(
    model: GenSR,
    rank: Callable[[GenSR, Batch], Tensor],
    loss: Callable[[GenSR, Batch], Tensor],
    *,
    users: int,
    positives: int,
) -> Path:
    evaluation, training = random_batch(users, CANDIDATES), random_batch(positives, 1 + NEGATIVES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def rank_once() -> Tensor:
        model.eval()
        with torch.inference_mode():
            return rank(model, evaluation)

    def train_once() -> None:
        model.train()
        optimizer.zero_grad()
        loss(model, training).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return Path(model, positions(model), rank_once, train_once, users, positives)


def build_model(corpus: Corpus, **config: object) -> GenSR:
    """GenSR of the tiny T5 shape (d 64, ff 128, 2 + 2 layers, 4 heads) with flan-t5's vocabulary size."""
    torch.manual_seed(0)
    table = torch.randn(ITEMS + 1, 64, generator=torch_generator(0, "cf"))
    shape = BackboneConfig(vocabulary=4000)
    model = GenSR(
        GenSRConfig.model_validate({"backbone": shape, **config}),
        corpus,
        tables={"LightGCN": {"item_propagated": table}},
    )
    model.backbone.model.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    return model


def positions(model: GenSR) -> str:
    """Encoder positions of a candidate: the prompt's length, or shared + own."""
    query = model.query_tokens.shape[1]
    text = sum(getattr(model, f"segment_{k}_tokens").shape[1] for k in range(5))
    sequences = 0 if model.config.slots == "filtered" else 2 * model.config.history
    if model.config.layout == "joint":
        return str(query + text + sequences + 4)
    return f"{query + text - 1 + sequences} + 5"


def explode(batch: Batch) -> Batch:
    """One row per candidate: [B, C] becomes [B·C, 1], histories repeated."""
    count = batch.candidates.shape[1]
    rows = batch.select(torch.arange(len(batch)).repeat_interleave(count))
    rows.candidates = batch.candidates.reshape(-1, 1)
    rows.labels = None if batch.labels is None else batch.labels.reshape(-1, 1)
    return rows


def prompts_naive(model: GenSR, batch: Batch) -> tuple[Tensor, Tensor]:
    """Embedded prompts of one-candidate rows; every row's segments and candidate text are tokenised again."""
    from unisr.models.prompts import WORDINGS

    for task in batch.task.tolist():
        for segment in WORDINGS[model.config.wording]["rec" if task == Task.REC else "src"]:
            model.backbone.tokenizer(segment, add_special_tokens=False)
    for item in batch.candidates.flatten().tolist():
        model.backbone.tokenizer(model.corpus.item_texts[item], add_special_tokens=False)
    return model.prompts(batch)


def rank_naive(model: GenSR, batch: Batch) -> Tensor:
    """log P(Yes) - log P(No) by `generate()` over the whole vocabulary, one full prompt per candidate: [B, C]."""
    embeds, mask = prompts_naive(model, explode(batch))
    out = model.backbone.model.generate(
        inputs_embeds=embeds, attention_mask=mask.long(), max_new_tokens=1, do_sample=False,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    log_p = out.logits[0].float().log_softmax(-1)[:, model.backbone.answer_ids]
    return (log_p[:, 0] - log_p[:, 1]).view(batch.candidates.shape)


def loss_naive(model: GenSR, batch: Batch) -> Tensor:
    """Cross-entropy over the whole vocabulary on one row per candidate."""
    rows = explode(batch)
    embeds, mask = prompts_naive(model, rows)
    logits = model.backbone.logits(model.backbone.answers(embeds, mask), vocabulary=True)
    return torch.nn.functional.cross_entropy(logits, model.backbone.answer_ids[1 - rows.labels.long().view(-1)])


def loss_ours(model: GenSR, batch: Batch) -> Tensor:
    """The method's own loss."""
    return sum(model.losses(batch).values())


def check_equal(model: GenSR) -> None:
    """Raise unless the naive and the joint path give equal scores, to float tolerance."""
    batch = random_batch(3, 10)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(rank_naive(model, batch), model.score(batch), rtol=1e-4, atol=1e-4)


def rate(step: Callable[[], object], amount: int, seconds: float) -> float:
    """Amount per second of process time (other work on the machine does not count), after one warm-up."""
    step()
    runs, start = 0, time.process_time()
    while time.process_time() - start < seconds or runs < 2:
        step()
        runs += 1
    return amount * runs / (time.process_time() - start)


def random_corpus() -> Corpus:
    """A catalogue of random texts of 5–25 words and queries of 2–5."""
    rng = generator(0, "catalogue")
    words = [f"w{k}" for k in range(WORDS)]

    def texts(count: int, low: int, high: int) -> list[str]:
        return ["", *(" ".join(rng.choice(words, rng.integers(low, high + 1))) for _ in range(count))]

    items, queries = texts(ITEMS, 5, 25), texts(QUERIES, 2, 5)
    vocabulary: dict[str, int] = {}
    return Corpus(
        name="random", n_users=USERS, n_items=ITEMS, n_queries=QUERIES, n_words=WORDS,
        item_texts=items, query_texts=queries,
        item_words=_word_ids(items, vocabulary), query_words=_word_ids(queries, vocabulary),
        popularity=np.ones(ITEMS + 1, dtype=np.int64), edges=np.zeros((0, 2), dtype=np.int64),
    )  # fmt: skip


def random_batch(rows: int, candidates: int) -> Batch:
    """Rows of both tasks with full histories; one positive per row in a random column."""
    g = torch_generator(0, "batch", rows, candidates)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(1, high + 1, shape, generator=g)

    task = torch.arange(rows) % 2 + 1
    items = draw(ITEMS, rows, HISTORY)
    labels = torch.nn.functional.one_hot(torch.randint(candidates, (rows,), generator=g), candidates).float()
    return Batch(
        user=draw(USERS, rows), items=items, tasks=draw(2, rows, HISTORY), queries=torch.zeros_like(items),
        candidates=draw(ITEMS, rows, candidates), query=draw(QUERIES, rows) * (task == Task.SRC), task=task,
        labels=labels,
    )  # fmt: skip


if __name__ == "__main__":
    main()
