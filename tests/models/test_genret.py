"""GenRet: contract, its stages, what stays as it is after each, and what it learns on the synthetic world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.contract import ScorerContract, Setting
from unisr.config import TrainConfig
from unisr.data.batches import Batch
from unisr.data.loaders import TrainLoader
from unisr.data.schema import Dataset
from unisr.errors import ConfigError
from unisr.models.backbone import BackboneConfig
from unisr.models.base import build
from unisr.models.generative import GenRet, GenRetConfig
from unisr.models.generative.genret import AS_BUILT, _centered
from unisr.training import train
from unisr.training.checkpoint import load_trained, trained_state

SMALL = GenRetConfig(levels=2, codes=12, final_share=0.5)


class TestGenRet(ScorerContract):
    method = "GenRet"
    not_in_batch = {"item text": "the ids are learned from it"}


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, GenRet)


def made(setting: Setting, config: GenRetConfig = SMALL, **changes: object) -> GenRet:
    return build(GenRet, config.model_copy(update=changes), setting.corpus, seed=0).eval()


@dataclass
class Batches:
    """The first `steps` training batches of every epoch."""

    loader: TrainLoader
    steps: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return islice(self.loader.epoch(epoch), self.steps)


def batches(setting: Setting, *, size: int = 128, steps: int = 8) -> Batches:
    config = TrainConfig(batch_size=size, negatives=1)
    return Batches(
        TrainLoader(setting.dataset, setting.histories, ("src",), config=config, history_length=(0, 0)), steps
    )


@dataclass
class Trained:
    scorer: GenRet
    after: list[dict[str, torch.Tensor]]
    """State after each epoch."""


@pytest.fixture(scope="module")
def trained(setting: Setting) -> Trained:
    scorer, after = made(setting), []
    config = TrainConfig(epochs=12, learning_rate=3e-3, clip_norm=1.0)
    train(scorer, batches(setting), config, seed=0, on_epoch=lambda _: after.append(trained_state(scorer)))
    return Trained(scorer, after)


# Stages.


@pytest.mark.parametrize("levels", [1, 3])
def test_phases_follow_one_another_and_every_training_ends_in_the_last(setting: Setting, levels: int) -> None:
    scorer = made(setting, levels=levels, codes=4)
    for epochs in (1, 2, 5, 20, 31):
        phases = [scorer.phase_of(epoch, epochs) for epoch in range(epochs)]
        assert phases == sorted(phases) and phases[-1] == 2 * levels
        assert epochs < 20 or sorted(set(phases)) == list(range(2 * levels + 1))


def test_a_training_of_one_epoch_passes_through_all_stages(setting: Setting) -> None:
    scorer = made(setting)
    scorer.start_epoch(0, 1)
    assert int(scorer.phase) == 4 and scorer.known == 3
    scorer.start_epoch(0, 20)
    assert int(scorer.phase) == 0 and scorer.known == 0


def test_codebooks_and_codes_stay_as_they_are_after_their_stage(trained: Trained) -> None:
    known = [int((state["codes"][1] >= 0).sum()) for state in trained.after]
    assert known == sorted(known) and {0, 1, 3} == set(known)
    for level in range(2):
        first = next(epoch for epoch, count in enumerate(known) if count > level)
        book = [state[f"codebooks.{level}"] for state in trained.after]
        assert not torch.equal(book[first - 1], book[0])
        for state, later in zip(trained.after[first:], book[first:], strict=True):
            assert torch.equal(later, book[first - 1])
            assert torch.equal(state["codes"][:, level], trained.after[first]["codes"][:, level])
    assert not torch.equal(trained.after[-1]["codebooks.2"], trained.after[-2]["codebooks.2"])


def test_codes_of_every_level_are_used_nearly_alike(trained: Trained) -> None:
    """The bound: a perplexity of 90 % of the codes, at 12.5 items a code."""
    assert trained.scorer.ids.sizes == (12, 12, 32)
    assert all(level.perplexity > 0.9 * 12 for level in trained.scorer.ids.usage()[:2])


def test_items_of_one_id_are_counted_and_the_last_code_is_shared(setting: Setting, trained: Trained) -> None:
    codes = trained.scorer.codes[1:]
    assert len(codes[:, :2].unique(dim=0)) < len(codes) == len(codes.unique(dim=0))
    scorer = made(setting, counter=2)
    scorer.codes[1:, :2] = torch.tensor([[0, 0]] * 4 + [[1, item % 12] for item in range(setting.dataset.n_items - 4)])
    count = scorer._count()
    assert count[:4].tolist() == [0, 1, 1, 1] and count[4:16].tolist() == [0] * 12 and count.max() == 1


def test_a_training_stopped_after_every_epoch_equals_an_undisturbed_one(setting: Setting, tmp_path: Path) -> None:
    class Stop(Exception): ...

    def stop(row: dict[str, float]) -> None:
        raise Stop

    # One epoch a phase, so that every stop is at a boundary.
    changes = dict(levels=2, codes=6, final_share=0.2, warmup_share=0.5)
    config, loader = TrainConfig(epochs=5, learning_rate=3e-3, schedule="linear"), batches(setting, size=64, steps=2)
    whole = made(setting, **changes)
    phases = []
    undisturbed = train(whole, loader, config, seed=1, on_epoch=lambda _: phases.append(int(whole.phase)))
    assert phases == [0, 1, 2, 3, 4]
    for _ in range(config.epochs):
        with pytest.raises(Stop):
            train(made(setting, **changes), loader, config, seed=1, checkpoints=tmp_path, on_epoch=stop)
    pieces = made(setting, **changes)
    log = train(pieces, loader, config, seed=1, checkpoints=tmp_path)
    assert [row["loss"] for row in log.rows] == [row["loss"] for row in undisturbed.rows]
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in pieces.state_dict().items())


# Scores.


def test_scores_are_of_the_codes_there_are(setting: Setting, trained: Trained) -> None:
    scorer = made(setting)
    batch = setting.batch(scorer)
    known = {}
    for state in trained.after:
        load_trained(scorer, state)
        known.setdefault(scorer.known, scorer.score(batch).detach())
    assert (known[0] == known[0][:, :1]).all() and known[0].isfinite().all()
    load_trained(scorer, next(s for s in trained.after if (s["codes"][1] >= 0).sum() == 1))
    with torch.inference_mode():
        states, mask = scorer.read(batch)
        first = scorer.level_logits(0, scorer.path(states, mask, batch.candidates[:, :0])[:, 0]).log_softmax(-1)
    torch.testing.assert_close(known[1], first.gather(1, scorer.codes[batch.candidates, 0]))


def test_a_score_is_the_log_probability_of_the_id_code_by_code(setting: Setting, trained: Trained) -> None:
    scorer, batch = trained.scorer, setting.batch(trained.scorer)
    found, expected = scorer.score(batch).detach(), torch.zeros(batch.candidates.shape)
    with torch.inference_mode():
        states, mask = scorer.read(batch)
        for row, column in torch.cartesian_prod(torch.arange(len(batch)), torch.arange(3)).tolist():
            codes = scorer.codes[batch.candidates[row, column]]
            path = scorer.path(states[row : row + 1], mask[row : row + 1], codes[None, :-1])
            for level, code in enumerate(codes):
                expected[row, column] += scorer.level_logits(level, path[0, level]).log_softmax(-1)[code]
    torch.testing.assert_close(found[:, :3], expected[:, :3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counter", [32, 1])
def test_a_beam_as_wide_as_the_catalog_returns_every_item_once_in_exact_order(
    setting: Setting, trained: Trained, counter: int
) -> None:
    """With a counter of one code items share ids."""
    scorer, count = made(setting, counter=counter), setting.dataset.n_items
    state = dict(trained.after[-1])
    state["codes"] = state["codes"].clamp(max=torch.tensor([99, 99, counter - 1]))
    state["codebooks.2"] = state["codebooks.2"][:counter]
    load_trained(scorer, state)
    batch = setting.batch(scorer, rows=setting.targets()[:3])
    with torch.inference_mode():
        exact = scorer.score_catalog(batch)
        items, scores = scorer.generate(batch, count, width=count)
    assert torch.equal(items.sort(1).values, torch.arange(1, count + 1).expand(3, -1))
    torch.testing.assert_close(scores, exact.gather(1, items - 1))
    assert (scores.diff(dim=1) <= 0).all() and (scorer.ids.shared() > 0) == (counter == 1)


def test_loaded_weights_bring_their_codes(setting: Setting, trained: Trained) -> None:
    other = made(setting)
    assert int(other.phase) == AS_BUILT
    load_trained(other, trained_state(trained.scorer))
    batch = setting.batch(other)
    assert int(other.phase) == 4 and torch.equal(other.score(batch), trained.scorer.score(batch))


def test_training_ranks_the_clicked_item_far_above_chance(setting: Setting, trained: Trained) -> None:
    """Share of the catalog that is ranked above the target, the mean over 100 test targets: 1/2 by chance."""
    above = []
    for scorer in (made(setting), trained.scorer):
        batch = setting.batch(scorer, rows=setting.targets(100))
        with torch.inference_mode():
            scores = scorer.score_catalog(batch)
        above.append((scores > scores.gather(1, batch.candidates[:, :1] - 1)).float().mean().item())
    assert above[0] > 0.35 and above[1] < 0.15


# Losses.


def test_contrast_is_with_items_of_the_prefix_that_the_query_does_not_ask_for(setting: Setting) -> None:
    scorer = made(setting, pseudo=0.0, codes=4)
    # As in the warm-up of the second level, with arbitrary first codes.
    scorer.phase.fill_(2)
    scorer.codes[1:, 1:] = -1
    batch = setting.training_batch(scorer, 24)
    items = batch.candidates[batch.labels > 0]
    with torch.inference_mode():
        found = scorer.losses(batch)["contrast"]
        asked = scorer.path(*scorer.read(batch), scorer.codes[items, :1])[:, -1]
        own = scorer.item_path(items, 1)[:, -1]
        terms, left_out = [], 0
        for row in range(24):
            exponents = {}
            for other in range(24):
                same_prefix = scorer.codes[items[other], 0] == scorer.codes[items[row], 0]
                asked_for = any(items[k] == items[other] and batch.query[k] == batch.query[row] for k in range(24))
                left_out += bool(same_prefix and asked_for and items[other] != items[row])
                if same_prefix and (items[other] == items[row] or not asked_for):
                    exponents[int(items[other])] = asked[row] @ own[other] / 64**0.5
            values = torch.stack(list(exponents.values()))
            terms.append(values.logsumexp(0) - exponents[int(items[row])])
    assert left_out > 0
    torch.testing.assert_close(found, 0.5 * torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


def test_losses_of_a_stage_train_its_codebook_alone(setting: Setting) -> None:
    scorer = made(setting)
    batch = setting.training_batch(scorer, 32)
    expected = {
        0: ({"contrast"}, []),
        1: ({"contrast", "code", "reconstruction"}, [0]),
        2: ({"contrast", "earlier"}, []),
        3: ({"contrast", "earlier", "code", "reconstruction"}, [1]),
        4: ({"src", "commitment"}, [2]),
    }
    scorer.codes.fill_(-1)
    for phase, (names, reached) in expected.items():
        scorer._enter(phase)
        scorer.zero_grad()
        terms = scorer.losses(batch)
        sum(terms.values()).backward()
        assert set(terms) == names
        assert [t for t, book in enumerate(scorer.codebooks) if book.grad is not None and book.grad.any()] == reached


def test_pseudo_queries_are_the_items_tokens_in_order_at_the_end_of_the_row(setting: Setting) -> None:
    scorer = made(setting, query_tokens=2)
    items = torch.arange(1, 151).repeat(4)
    torch.manual_seed(0)
    tokens, mask = scorer._pseudo(items)
    assert tokens.shape == (600, 2) and set(mask.sum(1).tolist()) == {1, 2}
    for item, row, valid in zip(items.tolist(), tokens, mask, strict=True):
        text = iter(scorer.item_tokens[item][scorer.item_mask[item]].tolist())
        assert all(token in text for token in row[valid].tolist())
    assert not mask[mask.sum(1) == 1, 0].any()


def test_centering_takes_the_groups_mean_and_leaves_lone_rows_apart() -> None:
    values = torch.tensor([[1.0], [3.0], [8.0]])  # their mean is 4
    found = _centered(values, torch.tensor([5, 5, 9]))
    torch.testing.assert_close(found, torch.tensor([[1 - 8 / 3], [3 - 8 / 3], [8 - 6.0]]))


def test_a_backbone_that_is_no_t5_is_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="llama.*T5"):
        made(setting, backbone=BackboneConfig(name="llama"))
