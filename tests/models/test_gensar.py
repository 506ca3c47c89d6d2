"""GenSAR: contract, its two ids, exact scores against the library's own pass, and its six tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from tests.contract import ScorerContract, Setting
from unisr.data.batches import Batch
from unisr.data.schema import Dataset, Task
from unisr.errors import ConfigError
from unisr.models.backbone import BackboneConfig
from unisr.models.base import build
from unisr.models.generative import GenSAR, GenSARConfig
from unisr.models.generative.gensar_tasks import EQUAL, RELEASED, Ratios, drawn_count
from unisr.models.identifiers import DualConfig

AT_BUILD = "the ids are made of it when the method is built"
SMALL = DualConfig(codes=8, hidden=(32,), latent=8, epochs=4, warmup_epochs=1)
TERMS = {"query", "adhoc", "text_to_id", "id_to_text"}


class TestGenSAR(ScorerContract):
    method = "GenSAR"
    not_in_batch = {"item text": AT_BUILD, "cf table": AT_BUILD}
    overfit_steps = 40


@pytest.fixture(scope="module")
def setting(world: Dataset) -> Setting:
    return Setting(world, GenSAR)


def made(setting: Setting, **changes: object) -> GenSAR:
    settings = {"text_encoder": "lsa", "dual": SMALL, **changes}
    return build(GenSAR, GenSARConfig(**settings), setting.corpus, seed=0, tables=setting.tables).eval()


@pytest.fixture(scope="module")
def scorer(setting: Setting) -> GenSAR:
    return made(setting)


@pytest.fixture(scope="module")
def batch(setting: Setting, scorer: GenSAR) -> Batch:
    return setting.batch(scorer)


def by_hand(scorer: GenSAR, tokens: Tensor, target: list[int], start: int, legal: list[slice]) -> float:
    """log p of target after encoder tokens [S], by the library's own pass; softmax over the legal tokens of a step."""
    given = torch.tensor([[start, *target[:-1]]])
    seen = tokens[tokens > 0][None]
    logits = scorer.model(input_ids=seen, decoder_input_ids=given).logits[0]
    steps = zip(logits, target, legal, strict=True)
    return sum(float(step[part].log_softmax(0)[token - part.start]) for step, token, part in steps)


# Ids.


def test_both_ids_of_an_item_begin_with_the_same_codes_and_go_on_with_their_own(scorer: GenSAR) -> None:
    rec, src = scorer.ids.rec.codes[1:], scorer.ids.src.codes[1:]
    assert torch.equal(rec[:, :2], src[:, :2]) and not torch.equal(rec[:, 2:], src[:, 2:])
    rec, src = scorer.prompts.ids("rec")[1:], scorer.prompts.ids("src")[1:]
    assert torch.equal(rec[:, :2], src[:, :2])
    assert not set(rec[:, 2:].flatten().tolist()) & set(src[:, 2:].flatten().tolist())
    assert rec.min() >= scorer.words + 3 and src.max() < scorer.model.get_input_embeddings().num_embeddings
    assert {"ids", "stage", "level", "collision_rate", "error"} <= set(scorer.ids.report)


@pytest.mark.parametrize("view", ["semantic", "collaborative"])
def test_ids_of_one_view_are_the_same_tokens_for_both_tasks(setting: Setting, scorer: GenSAR, view: str) -> None:
    one = made(setting, identifiers=view)
    assert torch.equal(one.prompts.ids("rec"), one.prompts.ids("src"))
    counts = [s.model.get_input_embeddings().num_embeddings - s.words for s in (scorer, one)]
    assert counts == [3 + 6 * 8, 3 + 4 * 8]


def test_loaded_weights_bring_their_ids(setting: Setting, scorer: GenSAR, batch: Batch, tmp_path: Path) -> None:
    """As when the fit of the ids ends elsewhere on another machine."""
    fresh, other = made(setting), made(setting)
    items = torch.arange(setting.dataset.n_items + 1)
    swapped = (scorer.prompts.ids("rec")[1:] != scorer.prompts.ids("rec")[1]).any(1).long().argmax() + 1
    items[[1, int(swapped)]] = items[[int(swapped), 1]]
    for kind in ("rec", "src"):
        other.prompts.ids(kind).copy_(other.prompts.ids(kind)[items])
    other._plant()
    save_model(other, str(tmp_path / "w.safetensors"))
    load_model(fresh, tmp_path / "w.safetensors")
    assert torch.equal(fresh.score_catalog(batch), other.score_catalog(batch))
    assert not torch.equal(fresh.score_catalog(batch), scorer.score_catalog(batch))
    assert torch.equal(fresh.ids.rec.codes, scorer.ids.rec.codes[items])
    assert set(fresh.ids.report["ids"]) == {"rec", "src"} and fresh.ids.report["error"].isna().all()


# Scores.


@torch.inference_mode()
def test_scores_are_those_of_the_library_s_pass_over_each_id(scorer: GenSAR, batch: Batch) -> None:
    scores, tasks = scorer.score(batch), {int(Task.REC): "rec", int(Task.SRC): "src"}
    assert set(batch.task.tolist()) == set(tasks)
    for row in range(len(batch)):
        kind = tasks[int(batch.task[row])]
        tokens = scorer.prompts.read(batch.select(torch.tensor([row])), kind)[0]
        legal = [slice(first, first + size) for first, size in scorer.levels[kind]]
        for column in range(3):
            target = scorer.prompts.ids(kind)[batch.candidates[row, column]].tolist()
            expected = by_hand(scorer, tokens, target, scorer.prompts.behavior[kind], legal)
            assert float(scores[row, column]) == pytest.approx(expected, rel=1e-4)


@torch.inference_mode()
def test_a_beam_as_wide_as_the_catalog_returns_every_item_once_in_exact_order(scorer: GenSAR, batch: Batch) -> None:
    count = scorer.corpus.n_items
    batch = batch.select(torch.tensor([0, -1, 1]))
    exact = scorer.score_catalog(batch)
    items, scores = scorer.generate(batch, count, width=count)
    few, _ = scorer.generate(batch, 5, width=count)
    assert torch.equal(items.sort(1).values, torch.arange(1, count + 1).expand(3, -1))
    torch.testing.assert_close(scores, exact.gather(1, items - 1))
    assert (scores.diff(dim=1) <= 0).all() and torch.equal(few, items[:, :5])
    for row, kind in enumerate(("rec", "src", "rec")):
        codes = getattr(scorer.ids, kind).codes[items[row]]
        tied = (codes[1:] == codes[:-1]).all(1)
        assert tied.any() and (items[row].diff()[tied] > 0).all()


# Encoder inputs.


def test_a_history_reads_as_its_events_in_order(scorer: GenSAR) -> None:
    one = torch.tensor
    rec, query, src = int(Task.REC), 7, int(Task.SRC)
    batch = Batch(
        user=one([1]), items=one([[0, 5, 9, 6]]), tasks=one([[0, rec, src, rec]]), queries=one([[0, 0, query, 0]]),
        candidates=one([[3]]), query=one([4]), task=one([src]),
    )  # fmt: skip
    id_of = {
        kind: lambda item, kind=kind: [
            f"<{kind} {t}:{c}>" if t > 2 else f"<{t}:{c}>"
            for t, c in enumerate(getattr(scorer.ids, kind).codes[item].tolist(), 1)
        ]
        for kind in ("rec", "src")
    }
    words = scorer.corpus.query_texts
    events = ["<rec>", *id_of["rec"](5), "<query>", *words[query].split(), "<src>", *id_of["src"](9)]
    events += ["<rec>", *id_of["rec"](6)]
    expected = ["the user ' s history :", *events, "<query>", *words[4].split(), "find the item that is searched ."]
    assert scorer.readable(scorer.prompts.read(batch, "src")) == [" ".join(expected)]
    expected = ["the user ' s history :", *events, "recommend the next item ."]
    assert scorer.readable(scorer.prompts.read(batch, "rec")) == [" ".join(expected)]


def test_a_wording_is_drawn_in_training_only(scorer: GenSAR, batch: Batch) -> None:
    rows = batch.select(torch.zeros(64, dtype=torch.long))
    assert len(set(scorer.readable(scorer.prompts.read(rows, "rec")))) == 1
    scorer.train()
    try:
        assert len(set(scorer.readable(scorer.prompts.read(rows, "rec")))) == 3
    finally:
        scorer.eval()


def test_pseudo_queries_are_some_words_of_the_text_in_its_order(scorer: GenSAR) -> None:
    torch.manual_seed(0)
    items = torch.arange(1, scorer.corpus.n_items + 1).repeat(3)
    lengths = set()
    for item, row in zip(items.tolist(), scorer.prompts.pseudo_query(items), strict=True):
        words, kept = scorer.corpus.item_texts[item].split(), scorer.readable(row[None])[0].split()
        assert kept and [word for word in words if word in kept] == kept
        lengths.add(len(kept) / len(words))
    assert min(lengths) < 0.5 and max(lengths) == 1


# Losses.


def test_without_alignment_losses_are_the_positives_log_p_alone(setting: Setting) -> None:
    scorer = made(setting, alignment=False)
    batch = setting.training_batch(scorer, 16)
    with torch.inference_mode():
        terms, scores = scorer.losses(batch), scorer.score(batch)
    assert set(terms) == {"rec", "src"}
    picked = scores[batch.labels > 0] / -4
    for task, number in (("rec", Task.REC), ("src", Task.SRC)):
        torch.testing.assert_close(terms[task], picked[batch.task == int(number)].mean())


@pytest.mark.parametrize(
    "ratios", [EQUAL, Ratios(query=0.25, adhoc=1, text_to_id=2, id_to_text=0.5), Ratios(query=0, adhoc=0)]
)
def test_ratios_are_rows_of_each_task_per_row_of_the_batch(
    setting: Setting, ratios: Ratios, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, counts = made(setting, ratios=ratios), dict.fromkeys(TERMS, 0)
    batch = setting.training_batch(scorer, 8)
    prompts = scorer.prompts
    for task, method in (("adhoc", "ad_hoc"), ("text_to_id", "describe"), ("id_to_text", "name")):

        def counted(first: Tensor, *rest: object, task: str = task, call: object = getattr(prompts, method)) -> Tensor:
            counts[task] += len(first)
            return call(first, *rest)

        monkeypatch.setattr(prompts, method, counted)
    read = prompts.read

    def reading(rows: Batch, task: str) -> Tensor:
        counts["query"] += len(rows) * (task == "query")
        assert task != "query" or (rows.task == int(Task.SRC)).all()
        return read(rows, task)

    monkeypatch.setattr(prompts, "read", reading)
    terms = scorer.losses(batch)
    expected = {name: ratio * len(batch) for name, ratio in ratios.model_dump().items()}
    assert counts == expected and set(terms) == {"rec", "src"} | {n for n, count in expected.items() if count}


def test_fractions_of_a_row_are_drawn_as_often_as_they_say() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([drawn_count(0.3, 8) for _ in range(2000)])
    assert set(counts.tolist()) == {2, 3} and float(counts.double().mean()) == pytest.approx(2.4, abs=0.04)
    rare = torch.tensor([drawn_count(RELEASED.adhoc, 128) for _ in range(2000)])
    assert set(rare.tolist()) == {0, 1} and float(rare.double().mean()) == pytest.approx(128 / 1030, abs=0.03)


@torch.inference_mode()
def test_texts_are_written_with_the_end_token_over_the_words(scorer: GenSAR) -> None:
    prompts, items = scorer.prompts, torch.tensor([3, 8])
    target = prompts.target(prompts.text_tokens[items])
    told = [f"{scorer.corpus.item_texts[item]} </s>" for item in items]
    assert [line.split() for line in scorer.readable(target)] == [line.split() for line in told]
    tokens = prompts.name(items, "rec")
    nll = scorer.text_nll(tokens, target, start=scorer.start_token)
    for row in range(2):
        words = target[row][target[row] > 0].tolist()
        log_p = by_hand(scorer, tokens[row], words, 0, [slice(0, scorer.words)] * len(words))
        assert float(nll[row]) == pytest.approx(-log_p / len(words), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"), [({"name": "llama"}, "no T5"), ({"adapter": "lora"}, "must be trained")]
)
def test_backbones_that_cannot_write_ids_are_refused(setting: Setting, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(setting, backbone=BackboneConfig(**changes))


def test_a_kind_of_ids_that_contradicts_the_switch_is_refused() -> None:
    with pytest.raises(ValueError, match="set identifiers"):
        GenSARConfig(dual=DualConfig(kind="semantic"))


def test_a_missing_table_is_named(setting: Setting) -> None:
    tables = {"texts": setting.tables["texts"]}
    with pytest.raises(ConfigError, match="LightGCN"):
        build(GenSAR, GenSARConfig(text_encoder="lsa"), setting.corpus, seed=0, tables=tables)
