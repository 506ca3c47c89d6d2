"""GEMS: the contract with a random LM; prompts, logits and losses against plain passes; what is trained; adapters."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.contract import ScorerContract, Setting, scores
from tests.models.t5 import save_t5
from unisr.config import ModelConfig, NullSpaceConfig
from unisr.data.batches import Batch
from unisr.data.corpus import Corpus
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import ConfigError
from unisr.models.base import Scorer, build
from unisr.models.causal_lm import CausalLMConfig
from unisr.models.joint.gems import GEMS
from unisr.models.joint.gems_config import PROMPT, TINY, GEMSConfig, SemanticConfig
from unisr.training.checkpoint import load_trained, trained_state
from unisr.training.null_space import projectors

RANDOM = CausalLMConfig(name="random", testbed=TINY)


class RandomSetting(Setting):
    """Every preset with a tiny random LM: none needs prose, a download or pretraining."""

    def build(self, preset: str = "quick", *, seed: int = 0, corpus: Corpus | None = None, **changes: object) -> Scorer:
        config = self.method.presets[preset][1].model_copy(update={"lm": RANDOM, **changes})
        return build(self.method, config, corpus or self.corpus, seed=seed, tables=self.tables).eval()


class TestGEMS(ScorerContract):
    method = "GEMS"

    @pytest.fixture
    def setting(self, random_setting: RandomSetting) -> Setting:
        return random_setting

    @pytest.fixture
    def scorer(self, random_scorer: GEMS) -> Scorer:
        return random_scorer


@pytest.fixture(scope="module")
def random_setting(world: Dataset) -> RandomSetting:
    return RandomSetting(world, GEMS)


@pytest.fixture(scope="module")
def random_scorer(random_setting: RandomSetting) -> GEMS:
    return random_setting.build()


@pytest.fixture
def setting(random_setting: RandomSetting) -> RandomSetting:
    return random_setting


@pytest.fixture
def scorer(random_scorer: GEMS) -> GEMS:
    return random_scorer


def by_hand(scorer: GEMS, batch: Batch, row: int, after: torch.Tensor | None = None) -> torch.Tensor:
    """State of the last token of one row: its prompt written token by token, without padding, through the whole LM.

    after: codes [m] that follow the prompt; then the states of the prompt's last token and of these, [1 + m, d].
    """
    task = Task(int(batch.task[row])).name.lower()
    words = scorer.lm.get_input_embeddings()

    def spelled(text: str) -> torch.Tensor:
        return words(torch.tensor(scorer.tokenizer(text, add_special_tokens=False)["input_ids"]))

    seen = [int(i) for i, t in zip(batch.items[row], batch.tasks[row], strict=True) if t][-scorer.config.history :]
    parts = [words(torch.tensor([scorer.tokenizer.bos_token_id])), spelled(PROMPT["history"])]
    parts += [scorer.items.weight[scorer.codes[seen].flatten()], spelled(PROMPT[task])]
    if task == "src":
        query = scorer.tokenizer(scorer.corpus.query_texts[batch.query[row]], add_special_tokens=False)["input_ids"]
        parts += [words(torch.tensor(query[: scorer.config.query_tokens])), spelled(PROMPT["find"])]
    follow = scorer.items.weight[torch.empty(0, dtype=torch.long) if after is None else after]
    out = scorer.lm(inputs_embeds=torch.cat([*parts, follow])[None], output_hidden_states=True).hidden_states[-1][0]
    return out[-1] if after is None else out[-1 - len(after) :]


def test_scores_are_those_of_an_unpadded_prompt(setting: RandomSetting, scorer: GEMS) -> None:
    batch = setting.batch(scorer, rows=setting.targets(4, Split.VALIDATION))
    found = scores(scorer, batch)
    with torch.inference_mode():
        for row in range(len(batch)):
            wanted = scorer.items.weight[batch.candidates[row]] @ by_hand(scorer, batch, row)
            torch.testing.assert_close(found[row], wanted, atol=1e-5, rtol=1e-5)


def test_the_history_is_that_of_both_tasks_cut_to_the_latest(setting: RandomSetting) -> None:
    scorer = setting.build(history=3)
    batch = setting.batch(scorer)
    assert ((batch.tasks > 0).sum(1) > 3).any()
    early = batch.items.clone()
    early[:, :-3] = 1
    assert torch.equal(scores(scorer, replace(batch, items=early)), scores(scorer, batch))
    late = batch.items.clone()
    late[:, -3] = late[:, -3] % setting.dataset.n_items + 1
    assert not torch.allclose(scores(scorer, replace(batch, items=late)), scores(scorer, batch))


def test_the_loss_is_over_words_and_items_and_the_mean_of_each_tasks_rows(setting: RandomSetting, scorer: GEMS) -> None:
    batch = setting.training_batch(scorer, 12)
    words = scorer.lm.get_input_embeddings().weight
    terms: dict[Task, list[torch.Tensor]] = {Task.REC: [], Task.SRC: []}
    with torch.inference_mode():
        for row in range(len(batch)):
            state = by_hand(scorer, batch, row)
            chances = torch.cat([words @ state, scorer.items.weight[1:] @ state]).softmax(0)
            positive = int(batch.candidates[row, batch.labels[row].argmax()])
            terms[Task(int(batch.task[row]))].append(-chances[len(words) + positive - 1].log())
        found = setting.build(history_weight=0.0).losses(batch)
    torch.testing.assert_close(found["rec"], torch.stack(terms[Task.REC]).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["src"], torch.stack(terms[Task.SRC]).mean(), atol=1e-5, rtol=1e-5)


def test_each_event_of_a_history_can_be_learned_from(setting: RandomSetting, scorer: GEMS) -> None:
    """The state of an event's item is that of the prompt cut there: a causal model sees no more."""
    batch = setting.training_batch(scorer, 6)
    found = setting.build(history_weight=0.5).losses(batch)
    plain = setting.build(history_weight=0.0).losses(batch)
    words, begin = scorer.lm.get_input_embeddings().weight, len(scorer.history_tokens[0])
    terms = []
    with torch.inference_mode():
        for row in (batch.task == int(Task.REC)).nonzero().squeeze(1).tolist():
            seen = [int(i) for i, t in zip(batch.items[row], batch.tasks[row], strict=True) if t]
            seen = seen[-scorer.config.history :]
            vectors = torch.cat([words[scorer.history_tokens[0]], scorer.items.weight[seen]])
            states = scorer.lm(inputs_embeds=vectors[None], output_hidden_states=True).hidden_states[-1][0, begin:]
            chances = (states @ torch.cat([words, scorer.items.weight[1:]]).T).log_softmax(-1)
            terms += [-chances[place, len(words) + item - 1] for place, item in enumerate(seen[1:])]
    torch.testing.assert_close(found["rec"], plain["rec"] + 0.5 * torch.stack(terms).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["src"], plain["src"])


# Item vectors.


def test_item_vectors_start_from_their_texts(setting: RandomSetting, scorer: GEMS) -> None:
    words = scorer.lm.get_input_embeddings().weight
    for item in (1, 7):
        ids = scorer.tokenizer(setting.corpus.item_texts[item], add_special_tokens=False)["input_ids"]
        wanted = torch.stack([words[i] for i in ids[: scorer.config.title_tokens]]).mean(0)
        torch.testing.assert_close(scorer.items.weight[item], wanted)
    assert not scorer.items.weight[0].any()


def test_random_item_vectors_read_no_text_and_have_the_words_spread(setting: RandomSetting) -> None:
    scorer = setting.build(item_start="random")
    silent = replace(setting.corpus, item_texts=["x"] * len(setting.corpus.item_texts))
    other = setting.build(item_start="random", corpus=silent)
    assert torch.equal(scorer.items.weight, other.items.weight)
    words = scorer.lm.get_input_embeddings().weight
    assert scorer.items.weight[1:].std().item() == pytest.approx(words.std().item(), rel=0.05)


# Semantic ids.


@pytest.fixture(scope="module")
def writer(random_setting: RandomSetting) -> GEMS:
    return random_setting.build(identifiers="semantic", semantic=SemanticConfig(codes=4), history_weight=0.0)


def test_semantic_scores_are_those_of_ids_written_one_by_one(setting: RandomSetting, writer: GEMS) -> None:
    assert writer.codes.shape[1] == 3 and len(writer.codes[1:].unique(dim=0)) == setting.dataset.n_items
    batch = setting.batch(writer, rows=setting.targets(2), candidates=5)
    found, starts = scores(writer, batch), [1, 5, 9, 9 + writer.ids.sizes[2]]
    with torch.inference_mode():
        for row in range(len(batch)):
            for place, item in enumerate(batch.candidates[row].tolist()):
                codes = writer.codes[item]
                logits = by_hand(writer, batch, row, codes[:-1]) @ writer.items.weight.T
                levels = zip(range(3), codes.tolist(), strict=True)
                wanted = sum(logits[t, starts[t] : starts[t + 1]].log_softmax(0)[c - starts[t]] for t, c in levels)
                torch.testing.assert_close(found[row, place], wanted, atol=1e-5, rtol=1e-5)
        catalog = writer.score_catalog(batch)
    torch.testing.assert_close(catalog.gather(1, batch.candidates - 1), found, atol=2e-5, rtol=2e-5)


def test_the_loss_of_semantic_ids_is_the_mean_over_their_codes(setting: RandomSetting, writer: GEMS) -> None:
    batch = setting.training_batch(writer, 6)
    words, found = writer.lm.get_input_embeddings().weight, writer.losses(batch)
    terms: dict[Task, list[torch.Tensor]] = {Task.REC: [], Task.SRC: []}
    with torch.inference_mode():
        for row in range(len(batch)):
            codes = writer.codes[int(batch.candidates[row, batch.labels[row].argmax()])]
            states = by_hand(writer, batch, row, codes[:-1])
            log_p = (states @ torch.cat([words, writer.items.weight[1:]]).T).log_softmax(-1)
            chosen = log_p[torch.arange(3), len(words) + codes - 1]
            terms[Task(int(batch.task[row]))].append(-chosen.mean())
    for task in Task.REC, Task.SRC:
        wanted = torch.stack(terms[task]).mean()
        torch.testing.assert_close(found[task.name.lower()], wanted, atol=1e-5, rtol=1e-5)


def test_codes_are_stored_with_the_weights_and_start_from_their_items(setting: RandomSetting, writer: GEMS) -> None:
    assert torch.equal(trained_state(writer)["codes"], writer.codes)
    atoms = setting.build()
    having = (writer.codes[:, 0] == 2).nonzero().squeeze(1)
    torch.testing.assert_close(writer.items.weight[2], atoms.items.weight[having].mean(0))


# What is trained.


def trained(scorer: GEMS) -> set[str]:
    return {name for name, p in scorer.named_parameters() if p.requires_grad}


def test_covered_are_the_linear_layers_of_the_blocks(scorer: GEMS) -> None:
    covered = scorer.covered()
    assert len(covered) == 7 * TINY.layers and all(".layers." in name for name in covered)
    assert trained(scorer) == {"items.weight", *(f"lm.{name}.weight" for name in covered)}


def test_all_and_norms_train_more(setting: RandomSetting, scorer: GEMS) -> None:
    gains = {name for name, _ in scorer.named_parameters() if "norm" in name}
    assert len(gains) == 2 * TINY.layers + 1
    assert trained(setting.build(norms=True)) == trained(scorer) | gains
    everything = trained(setting.build(trained="all"))
    assert everything - trained(scorer) - gains == {"lm.model.embed_tokens.weight"}


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("adapter", ["lora", "dora", "task_lora"])
def test_adapters_start_as_the_lm_and_are_trained_in_its_place(
    setting: RandomSetting, scorer: GEMS, adapter: str
) -> None:
    batch = setting.batch(scorer)
    made = setting.build(adapter=adapter, adapter_rank=2)
    torch.testing.assert_close(scores(made, batch), scores(scorer, batch), atol=1e-5, rtol=1e-5)
    assert not made.covered()
    names = trained(made)
    assert "items.weight" in names and all("lora_" in name for name in names - {"items.weight"})
    copies = 2 if adapter == "task_lora" else 1
    factors = sum(math.prod(p.shape) for n, p in made.named_parameters() if "lora_A" in n or "lora_B" in n)
    assert factors == copies * sum(2 * sum(layer.weight.shape) for layer in scorer.covered().values())
    assert any("magnitude" in name for name in names) == (adapter == "dora")


def test_each_task_has_its_own_adapter(setting: RandomSetting) -> None:
    made = setting.build(adapter="task_lora")
    batch = setting.training_batch(made, 16)
    losses = made.losses(batch)
    losses["rec"].backward(retain_graph=True)
    touched = {name.split(".")[-2] for name, p in made.named_parameters() if "lora_" in name and p.grad is not None}
    assert touched == {"rec"}
    losses["src"].backward()
    assert all(p.grad is not None for name, p in made.named_parameters() if "lora_" in name)
    before = scores(made, batch)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "lora_B.src" in name:
                p.normal_()
    after, searched = scores(made, batch), batch.task == int(Task.SRC)
    assert torch.equal(after[~searched], before[~searched])
    assert not torch.allclose(after[searched], before[searched])
    again = setting.build(adapter="task_lora", seed=1)
    load_trained(again, trained_state(made))
    torch.testing.assert_close(trained_state(again), trained_state(made))


# General text.


def test_general_text_is_that_of_the_tables(setting: RandomSetting, scorer: GEMS) -> None:
    with pytest.raises(ConfigError, match=r"run the method through unisr\.run"):
        _ = scorer.general
    blocks = torch.arange(12).reshape(3, 4)
    config: ModelConfig = GEMSConfig(lm=RANDOM)
    made = build(GEMS, config, setting.corpus, seed=0, tables={"prose": {"projection": blocks}})
    assert torch.equal(made.general, blocks)


# Encoder–decoder models.


@pytest.mark.parametrize("tied", [False, True])
def test_an_encoder_reads_the_prompt_and_the_decoder_answers(
    tmp_path: Path, random_setting: RandomSetting, tied: bool
) -> None:
    lm = CausalLMConfig(name=str(save_t5(tmp_path, tied=tied)))
    scorer = random_setting.build(lm=lm, history_weight=0.0)
    batch = random_setting.batch(scorer, rows=random_setting.targets(3), candidates=5)
    with torch.inference_mode():
        for row in range(len(batch)):
            task = "rec" if int(batch.task[row]) == int(Task.REC) else "src"
            embeds, mask = scorer.prompt(batch.select(torch.tensor([row])), task)
            out = scorer.lm(inputs_embeds=embeds[mask][None], decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
            words = scorer.lm.get_output_embeddings().weight
            found = scorer.states(batch.select(torch.tensor([row])), task)[0]
            torch.testing.assert_close(found @ words.T, out.logits[:, 0], atol=1e-5, rtol=1e-4)


def test_an_encoder_trains_in_subspaces_and_refuses_what_needs_a_causal_model(
    tmp_path: Path, random_setting: RandomSetting
) -> None:
    lm = CausalLMConfig(name=str(save_t5(tmp_path)))
    scorer = random_setting.build(lm=lm, history_weight=0.0)
    batch = random_setting.training_batch(scorer, 8)
    sum(scorer.losses(batch).values()).backward()
    covered = scorer.covered()
    assert all(layer.weight.grad is not None for layer in covered.values()) and len(covered) == 16
    blocks = torch.randint(2, 250, (4, 32), generator=torch.Generator().manual_seed(0))
    found = projectors(scorer.lm, covered, blocks, NullSpaceConfig())
    assert {name: p.shape[0] for name, p in found.items()} == {n: layer.in_features for n, layer in covered.items()}
    for changes in ({"history_weight": 1.0}, {"identifiers": "semantic", "history_weight": 0.0}):
        with pytest.raises(ConfigError, match="history_weight=0"):
            random_setting.build(lm=lm, **changes)
