"""CoPPS and the views it contrasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from tests.contract import ScorerContract, Setting, changed
from unisr.data.schema import Dataset
from unisr.models.base import build
from unisr.models.search import TEM, CoPPS, CoPPSConfig, TEMConfig
from unisr.models.search.views import altered, neighbors, replaced


class TestCoPPS(ScorerContract):
    method = "CoPPS"


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, CoPPS)


def made(setting: Setting, **config: object) -> CoPPS:
    return build(CoPPS, CoPPSConfig.model_validate(config), setting.corpus, seed=0)


def test_with_alpha_zero_it_is_tem(setting: Setting) -> None:
    scorer = made(setting, alpha=0.0).train()
    tem = build(TEM, TEMConfig(), setting.corpus, seed=0).train()
    tem.load_state_dict({k: v for k, v in scorer.state_dict().items() if k != "hidden"})
    batch = setting.training_batch(scorer, 32)
    found = []
    for each in (scorer, tem):
        torch.manual_seed(1)
        found.append(each.losses(batch))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[1])
    assert torch.equal(scorer.eval().score(batch), tem.eval().score(batch))


def test_alpha_weighs_the_contrasts_alone(setting: Setting) -> None:
    batch = setting.training_batch(made(setting), 64)
    found = []
    for alpha in (0.1, 0.3):
        torch.manual_seed(1)
        found.append(made(setting, alpha=alpha).eval().losses(batch))
    assert set(found[0]) == {"src", "words", "within", "catalog", "users"}
    for name in found[0]:
        ratio = 3.0 if name in ("within", "catalog", "users") else 1.0
        torch.testing.assert_close(found[1][name], found[0][name] * ratio)
        assert found[0][name] > 0, name


def users_term(scorer: CoPPS, state: Tensor, user: Tensor, target: Tensor, some: Tensor) -> Tensor:
    """The between-users term by loops; needs at most one partner a row, so that none is drawn."""
    terms = []
    for i in range(len(user)):
        partners = [j for j in range(len(user)) if target[j] == target[i] and user[j] != user[i] and some[j]]
        assert len(partners) <= 1
        if not partners or not some[i]:
            continue
        negatives = [j for j in range(len(user)) if target[j] != target[i] and user[j] != user[i]]
        alike = [F.cosine_similarity(state[i], state[j], dim=0) for j in partners + negatives]
        logits = torch.stack(alike) / scorer.config.temperature
        terms.append(torch.logsumexp(logits, 0) - logits[0])
    return torch.stack(terms).mean()


def test_between_users_is_info_nce_without_false_negatives(setting: Setting) -> None:
    scorer = made(setting, alpha=1.0).eval()
    batch = setting.training_batch(scorer, 8)
    candidates = batch.candidates.clone()
    target = torch.tensor([1, 1, 2, 2, 3, 4, 5, 6])
    candidates[batch.labels > 0] = target
    # Rows 2 and 3 are one user's: no pair. Row 6 has no history: no anchor, and a negative all the same.
    user = torch.tensor([1, 2, 3, 3, 1, 4, 5, 6])
    tasks, items = batch.tasks.clone(), batch.items.clone()
    tasks[:, -1], items[:, -1] = 2, torch.arange(1, 9)
    tasks[6] = 0
    batch = changed(batch, user=user, candidates=candidates, tasks=tasks, items=items)
    state, some = scorer.state(batch), (tasks == 2).any(1)
    expected = users_term(scorer, state, user, target, some)
    torch.testing.assert_close(scorer.losses(batch)["users"], expected)


def test_altered_histories_are_those_of_the_first_rows(setting: Setting) -> None:
    scorer = made(setting, altered_rows=8).eval()
    batch = setting.training_batch(scorer, 16)
    late = batch.items % setting.dataset.n_items + 1
    found = []
    for first in (16, 8, 0):
        torch.manual_seed(1)
        found.append(scorer.losses(changed(batch, items=torch.cat([batch.items[:first], late[first:]]))))
    for name in ("within", "catalog"):
        assert torch.equal(found[1][name], found[0][name]) and not torch.equal(found[2][name], found[0][name])


def test_rows_without_history_or_partner_have_no_contrast(setting: Setting) -> None:
    scorer = made(setting).eval()
    batch = setting.training_batch(scorer, 8)
    none = torch.zeros_like(batch.items)
    terms = scorer.losses(changed(batch, items=none, tasks=none))
    assert all(terms[name] == 0 for name in ("within", "catalog", "users"))
    alone = scorer.losses(batch.select(torch.tensor([0])))
    assert alone["users"] == 0 and all(torch.isfinite(term) for term in alone.values())


def histories(rows: int = 300, length: int = 12) -> tuple[Tensor, Tensor]:
    """Left-padded items 1, 2, … n, one more each row up to `length`, and which cells are seen."""
    sizes = torch.arange(rows) % (length + 1)
    place = torch.arange(length) - (length - sizes).unsqueeze(1)
    return (place + 1).clamp(min=0), place >= 0


def test_a_view_crops_hides_or_reorders_one_stretch() -> None:
    items, seen = histories()
    torch.manual_seed(0)
    columns, valid, hidden = altered(seen, crop=0.5, mask=0.5, reorder=0.5)
    view = items.gather(1, columns)
    kinds = set()
    for row in range(len(items)):
        size, found = int(seen[row].sum()), view[row][valid[row]].tolist()
        assert valid[row].tolist() == sorted(valid[row].tolist()), "valid cells stand at the end"
        whole = list(range(1, size + 1))
        if hidden[row].any():
            assert found == whole
            kinds.add("mask")
        elif len(found) < size:
            assert len(found) == -(-size // 2) and found == list(range(found[0], found[0] + len(found)))
            kinds.add("crop")
        elif found != whole:
            assert sorted(found) == whole
            moved = [i for i in range(size) if found[i] != whole[i]]
            assert moved[-1] - moved[0] < -(-size // 2)
            kinds.add("reorder")
    assert kinds == {"mask", "crop", "reorder"}


def test_unseen_cells_between_events_are_left_out_of_a_view() -> None:
    torch.manual_seed(0)
    seen = torch.rand(50, 9) < 0.5
    columns, valid, _ = altered(seen, crop=1.0, mask=0.0, reorder=0.01)
    assert (valid.sum(1) == seen.sum(1)).all()
    assert (seen.gather(1, columns) == valid).all()


def test_replacements_are_neighbors_of_the_item() -> None:
    near = torch.tensor([[0, 0], [2, 3], [1, 0], [0, 0]])
    items = torch.tensor([[0, 1, 2, 3]]).expand(200, -1)
    torch.manual_seed(0)
    found = replaced(items, near, 1.0)
    assert [set(found[:, c].tolist()) for c in range(4)] == [{0}, {2, 3}, {1, 2}, {3}]
    assert torch.equal(replaced(items, near, 0.0), items)


def test_neighbors_share_most_words_rare_ones_counting_more(setting: Setting) -> None:
    words = setting.corpus.item_words
    sets = np.zeros((len(words), setting.corpus.n_words + 1))
    sets[np.arange(len(words))[:, None], words] = 1.0
    sets[:, 0] = 0.0
    alike = cosine_similarity(sets * np.log((len(words) - 1) / np.maximum(sets.sum(0), 1)))
    np.fill_diagonal(alike, -1.0)
    found = neighbors(words, 3)
    assert not found[0].any()
    for item in range(1, len(words)):
        kept = found[item][found[item] > 0]
        assert item not in kept and len(set(kept)) == len(kept)
        best = np.sort(alike[item])[::-1][: len(kept)]
        np.testing.assert_allclose(alike[item, kept], best, atol=1e-8)
        assert len(kept) == min(3, (alike[item] > 1e-9).sum())


def test_items_without_words_have_no_neighbors() -> None:
    assert not neighbors(np.zeros((4, 1), dtype=np.int64), 2).any()
