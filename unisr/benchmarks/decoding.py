"""How fast item ids are decoded: transformers' `generate` under a prefix function against the trie's arrays.

Both paths use one random T5 on the same histories in one process, one after the other, and each runs the encoder once
per user. Ids are random, 4 levels of 256 codes.

- candidates: 100 candidates of a user are ranked. As the official GenSAR code does, `generate` searches a Python trie
  of the user's candidates with 30 beams and so ranks 30 of them, not always the best; ours scores all 100.
- all candidates: the same against `generate` with 100 beams, which ranks what ours ranks.
- catalog: the 30 likeliest items of the catalog, 30 beams on both paths.

The baseline is kinder than the official evaluation: no tokenizer in the loop, 4 steps in place of 6 (no behavior
token before the id, no end token after it). `generate` takes the softmax over its whole vocabulary and masks after
it; ours is over the codes of a level. To hold results against each other, `check_equal` gives `generate` a processor
that takes the softmax over the level's codes before the prefix mask; the timed call is the plain one.

With a small model much of the ratio is the softmax over t5-small's vocabulary (`--words 4000` is the suite's own
size). With a large one the time is the decoder's, and scoring all 100 passes through up to 301 positions of a user
where 30 beams pass through 120.

    unisr bench decoding [--shape small|paper] [--words 32128] [--users 8] [--seconds 2] [--threads 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.generation import LogitsProcessor, LogitsProcessorList, PrefixConstrainedLogitsProcessor

from unisr.benchmarks.ranking import rate
from unisr.models.id_writer import IdWriter
from unisr.models.tree_decoder import beam_search, score_candidates
from unisr.models.trie import Trie
from unisr.random import torch_generator

CATALOGS, LEVELS, CODES, CANDIDATES, BEAMS, HISTORY = (1008, 20_000), 4, 256, 100, 30, 128
WORDS = 32_128
"""t5-small's vocabulary, which the codes extend."""
SHAPES = {
    "small": dict(d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4),
    "paper": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8),
}
"""small: the suite's own; paper: t5-small."""

Nested = dict[int, "Nested"]


def main() -> None:
    """Print one row per task and path: users/s and the ratio to `generate`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--words", type=int, default=WORDS, help="vocabulary before the codes")
    parser.add_argument("--users", type=int, default=8, help="users in a batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="processor seconds spent on each measure")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{'task':14} {'items':>6} {'generate':>9} {'ours':>9} {'ratio':>6} {'found':>6}   (users/s)")
    for row in measure(given.shape, words=given.words, users=given.users, seconds=given.seconds):
        print(
            f"{row['task']:14} {row['items']:6} {row['generate']:9.2f} {row['ours']:9.2f}"
            f" {row['ours'] / row['generate']:6.1f} {row['found']:6.3f}"
        )
    print(
        f"shape {given.shape}, {given.words} words, {given.users} users a batch, {HISTORY} encoder positions,"
        f" {given.threads} thread(s)"
    )
    print("found: share of our best 30 that generate returns; all candidates and catalog are equal (checked)")


def measure(shape: str, *, words: int, users: int, seconds: float) -> list[dict[str, float | str]]:
    """One row per task and catalog: users/s of `generate` and of ours, and the share of our best 30 it returns.

    Raises:
        AssertionError: the paths do not give equal lists and scores where they should.
    """
    rows = []
    for items in CATALOGS:
        found = check_equal(build(shape, words=words, items=items, users=2))
        world = build(shape, words=words, items=items, users=users)
        for task, (theirs, ours) in paths(world).items():
            rates = {name: rate(path, users, seconds) for name, path in (("generate", theirs), ("ours", ours))}
            rows.append({"task": task, "items": items, "found": found[task], **rates})
    return rows


class CodeT5(IdWriter):
    """A T5 of random weights whose vocabulary is words and then the codes of all levels."""

    def __init__(self, *, sizes: tuple[int, ...], words: int, **shape: int) -> None:
        config = T5Config(vocab_size=words + sum(sizes), dropout_rate=0.0, decoder_start_token_id=0, **shape)
        starts = accumulate((words, *sizes[:-1]))
        super().__init__(T5ForConditionalGeneration(config).eval(), list(zip(starts, sizes, strict=True)))

    def tokens(self, codes: Tensor) -> Tensor:
        """Token numbers of whole ids [..., T]."""
        return codes + torch.tensor([first for first, _ in self.levels])


@dataclass
class World:
    """A model, a catalog's trie and codes, and one batch: words and mask [B, S], candidates [B, C], each once."""

    model: CodeT5
    trie: Trie
    codes: Tensor
    words: Tensor
    mask: Tensor
    candidates: Tensor

    def states(self) -> Tensor:
        return self.model.model.encoder(input_ids=self.words, attention_mask=self.mask).last_hidden_state


def build(shape: str, *, words: int, items: int, users: int) -> World:
    """Random weights, ids, histories and candidates; the same on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CodeT5(sizes=(CODES,) * LEVELS, words=words, **SHAPES[shape])
    g = torch_generator(0, "decoding", items)
    codes = torch.randint(CODES, (items + 1, LEVELS), generator=g)
    codes[0] = -1
    history = torch.randint(2, words, (users, HISTORY), generator=g)
    lengths = torch.randint(HISTORY // 2, HISTORY + 1, (users, 1), generator=g)
    candidates = torch.rand(users, items, generator=g).argsort(1)[:, :CANDIDATES] + 1
    return World(model, Trie(codes), codes, history, (torch.arange(HISTORY) < lengths).long(), candidates)


def paths(world: World) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """For each task, its path by `generate` and ours; the catalog's Python trie is built once, as ours is."""
    whole = nested(world.model.tokens(world.codes[1:]).tolist())
    quiet = torch.inference_mode()
    score = quiet(lambda: score_candidates(*_ours(world), world.candidates))
    return {
        "candidates": (quiet(lambda: generate(world, candidate_tries(world), beams=BEAMS)), score),
        "all candidates": (quiet(lambda: generate(world, candidate_tries(world), beams=CANDIDATES)), score),
        "catalog": (
            quiet(lambda: generate(world, [whole] * len(world.words), beams=BEAMS)),
            quiet(lambda: beam_search(*_ours(world), k=BEAMS, width=BEAMS)),
        ),
    }


def _ours(world: World) -> tuple[CodeT5, Trie, Tensor, Tensor]:
    return world.model, world.trie, world.states(), world.mask


def nested(ids: list[list[int]]) -> Nested:
    """A trie of token ids as dictionaries."""
    root: Nested = {}
    for one in ids:
        node = root
        for token in one:
            node = node.setdefault(token, {})
    return root


def candidate_tries(world: World) -> list[Nested]:
    """One Python trie per user, over the user's candidates."""
    return [nested(ids) for ids in world.model.tokens(world.codes[world.candidates]).tolist()]


class LevelSoftmax(LogitsProcessor):
    """log p over the codes of the level to be written; what other tokens have is taken away."""

    def __init__(self, model: CodeT5) -> None:
        self.model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        level = input_ids.shape[1] - 1  # the start token stands first
        first, size = self.model.levels[level]
        kept = torch.full_like(scores, -torch.inf)
        kept[:, first : first + size] = scores[:, first : first + size].log_softmax(-1)
        return kept


def generate(world: World, tries: list[Nested], *, beams: int, level_softmax: bool = False) -> tuple[Tensor, Tensor]:
    """The `beams` best ids of each user's trie, token numbers [B, beams, T], and their sums of log p [B, beams]."""

    def allowed(row: int, written: Tensor) -> list[int]:
        node = tries[row]
        for token in written.tolist()[1:]:
            node = node[token]
        return list(node)

    if level_softmax:
        prefix = PrefixConstrainedLogitsProcessor(allowed, beams)
        constraint = {"logits_processor": LogitsProcessorList([LevelSoftmax(world.model), prefix])}
    else:
        constraint = {"prefix_allowed_tokens_fn": allowed}
    out = world.model.model.generate(
        input_ids=world.words, attention_mask=world.mask, num_beams=beams, num_return_sequences=beams,
        max_new_tokens=world.trie.n_levels, length_penalty=0.0, early_stopping=True, do_sample=False,
        return_dict_in_generate=True, output_scores=True, **constraint,
    )  # fmt: skip
    shape = (len(tries), beams)
    return out.sequences[:, 1:].unflatten(0, shape), out.sequences_scores.unflatten(0, shape)


@torch.inference_mode()
def check_equal(world: World) -> dict[str, float]:
    """Raise unless both paths give the same ids in the same order with the same scores; found shares of our best 30.

    Candidates are compared with as many beams as candidates, which lose none. Where two scores differ by less than
    1e-3 nats their ids may change places.
    """
    tries = candidate_tries(world)
    scores, order = score_candidates(*_ours(world), world.candidates).sort(dim=1, descending=True)
    ids = world.model.tokens(world.codes[world.candidates.gather(1, order)])
    _assert_same(ids, scores, *generate(world, tries, beams=CANDIDATES, level_softmax=True))
    theirs, _ = generate(world, tries, beams=BEAMS, level_softmax=True)
    found = (ids[:, :BEAMS, None] == theirs[:, None]).all(-1).any(-1).float().mean()
    items, scores = beam_search(*_ours(world), k=BEAMS, width=BEAMS)
    whole = nested(world.model.tokens(world.codes[1:]).tolist())
    theirs = generate(world, [whole] * len(items), beams=BEAMS, level_softmax=True)
    _assert_same(world.model.tokens(world.codes[items]), scores, *theirs)
    return {"candidates": float(found), "all candidates": 1.0, "catalog": 1.0}


def _assert_same(ids: Tensor, scores: Tensor, their_ids: Tensor, their_scores: Tensor) -> None:
    torch.testing.assert_close(scores, their_scores, rtol=1e-4, atol=1e-4)
    near = torch.zeros_like(scores, dtype=torch.bool)
    near[:, 1:] |= (scores[:, 1:] - scores[:, :-1]).abs() < 1e-3
    near[:, :-1] |= near[:, 1:].clone()
    same = (ids == their_ids).all(-1)
    assert (same | near).all(), f"{int((~(same | near)).sum())} of {same.numel()} listed ids differ from generate's"


if __name__ == "__main__":
    main()
