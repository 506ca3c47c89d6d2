"""General knowledge of a language model: nats, cloze, drift of states, and changes inside and outside a null space."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unisr.analysis import general_knowledge as module
from unisr.analysis.general_knowledge import Cloze, KnowledgeSettings, compare, drift, nats_by_block
from unisr.analysis.null_space import layer_changes, leakage, weight, weighted_layers
from unisr.config import NullSpaceConfig
from unisr.errors import ConfigError
from unisr.training.null_space import moments, projectors

WORDS = [f"Ġ{a}{b}" for a in "abcdefgh" for b in "uvwxy"]
OTHERS = ["ing", ".", "Ġ", "<end>"]


def tiny(seed: int) -> LlamaForCausalLM:
    shape = LlamaConfig(
        vocab_size=len(WORDS) + len(OTHERS), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(shape).eval()


def shifted(lm: LlamaForCausalLM, project: dict[str, Tensor] | None = None) -> LlamaForCausalLM:
    """The model with changed layers; through projectors where they are given."""
    other = tiny(0)
    other.load_state_dict(lm.state_dict())
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, layer in weighted_layers(other).items():
            change = 0.05 * torch.randn(layer.weight.shape, generator=random)
            layer.weight += change @ project[name] if project else change
    return other


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: place for place, token in enumerate([*WORDS, *OTHERS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="Ġ"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="Ġ", prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


@pytest.fixture(scope="module")
def blocks() -> Tensor:
    return torch.randint(0, len(WORDS) + 2, (30, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def lm() -> LlamaForCausalLM:
    return tiny(0)


def test_nats_are_the_model_s_own_loss_block_by_block(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    with torch.no_grad():
        expected = [float(lm(input_ids=row[None], labels=row[None]).loss) for row in blocks]
    np.testing.assert_allclose(nats_by_block(lm, blocks, batch=7), expected, rtol=1e-5)


class Fixed(nn.Module):
    """Says the same logits of every token, or knows what comes next."""

    def __init__(self, size: int, *, knows: bool) -> None:
        super().__init__()
        self.size, self.knows = size, knows
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, self.size)
        if self.knows:
            logits[:, :-1].scatter_(2, input_ids[:, 1:, None], 50.0)
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize(("knows", "share"), [(False, 0.25), (True, 1.0)])
def test_cloze_is_chance_for_a_model_that_knows_nothing(
    tokenizer: PreTrainedTokenizerFast, blocks: Tensor, knows: bool, share: float
) -> None:
    size = len(WORDS) + len(OTHERS)
    questions = Cloze(tokenizer, blocks, 300)
    nats, right = module._answers(Fixed(size, knows=knows), blocks, questions, 7)
    assert len(right) == len(questions.rows) > 200 and set(right) == {share}
    assert nats.mean() == pytest.approx(0.0 if knows else np.log(size), abs=1e-6)


def test_candidates_are_whole_words_of_like_frequency(tokenizer: PreTrainedTokenizerFast) -> None:
    # Words of two frequencies: the first ten every time, the others one time in eight.
    random = np.random.default_rng(0)
    weights = np.array([8.0] * 10 + [1.0] * 30 + [10.0, 10.0])
    text = torch.tensor(random.choice(len(weights), (60, 50), p=weights / weights.sum()))
    questions = Cloze(tokenizer, text, 400)
    followed = text[questions.rows, questions.places + 1]
    assert (text[questions.rows, questions.places] == questions.candidates[:, 0]).all()
    assert (questions.candidates < len(WORDS)).all() and (questions.places >= module.CONTEXT).all()
    assert (followed != len(WORDS)).all() and (followed == len(WORDS) + 1).any()
    assert ((questions.candidates < 10).sum(1) % 4 == 0).all()
    assert all(len(set(row)) == 4 for row in questions.candidates.tolist())
    assert 0.4 < float((questions.candidates[:, 0] < 10).float().mean()) < 0.95
    again = Cloze(tokenizer, text, 400)
    assert torch.equal(again.candidates, questions.candidates) and torch.equal(again.rows, questions.rows)


def test_text_without_words_gives_no_question(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="0 whole words in 200 tokens"):
        Cloze(tokenizer, torch.full((5, 40), len(WORDS)), 10)


def test_drift_against_plain_formulas(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    other = shifted(lm)
    found = drift(lm, other, blocks, batch=4)
    with torch.no_grad():
        states = [m(input_ids=blocks, output_hidden_states=True).hidden_states for m in (lm, other)]
    for place, (x, y) in enumerate(zip(*states, strict=True)):
        x, y = (z.flatten(0, 1).double().numpy() for z in (x, y))
        assert found.distance[place] == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-5, abs=1e-9)
        k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
        assert found.cka[place] == pytest.approx((k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m)), rel=1e-5)
    assert list(found.state) == [0, 1, 2] and found.distance[0] == 0 and found.distance[2] > 0.01
    same = drift(lm, lm, blocks)
    assert (same.distance == 0).all() and np.allclose(same.cka, 1)


def test_leakage_is_the_share_outside() -> None:
    p = torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    before = torch.zeros(2, 3)
    after = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    assert leakage(before, after, p) == pytest.approx(0.8)
    assert leakage(before.T, after.T, p, side="output") == pytest.approx(0.8)
    assert leakage(before, after @ p, p) == 0 and np.isnan(leakage(before, before, p))
    with pytest.raises(ConfigError, match=r"projector \[3, 3\] is not of the output side.*\[2, 2\]"):
        leakage(before, after, p, side="output")


def test_changes_split_into_protected_and_free(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    layers = weighted_layers(lm)
    p = projectors(lm, layers, blocks, NullSpaceConfig(energy=0.2))
    c = moments(lm, layers, blocks, side="input")
    loose, clean = layer_changes(lm, shifted(lm), p, c), layer_changes(lm, shifted(lm, p), p, c)
    name = "model.layers.1.mlp.down_proj"
    seen: list[Tensor] = []
    hook = layers[name].register_forward_hook(lambda _, x, y: seen.append(x[0].flatten(0, -2).double()))
    with torch.no_grad():
        lm(input_ids=blocks)
    hook.remove()
    (x,) = seen
    old, new = (m.get_submodule(name).weight.detach().double() for m in (lm, shifted(lm)))
    null, scale = p[name].double(), (x @ old.T).norm()
    row = loose.set_index("layer").loc[name]
    moved, free = x @ (new - old).T, x @ null @ (new - old).T
    assert row.moved == pytest.approx(float(moved.norm() / scale), rel=1e-4)
    assert row.free == pytest.approx(float(free.norm() / scale), rel=1e-4)
    assert row.protected == pytest.approx(float((moved - free).norm() / scale), rel=1e-4)
    assert row.null_energy == pytest.approx(float((x @ null).square().sum() / x.square().sum()), rel=1e-4)
    assert row.width == 24 and 0 < row.null < 24 and len(loose) == len(layers) == 14
    # fp32 weights round the update, which is 1e-7 of the weight.
    assert (clean.protected < 1e-5).all() and (clean.leakage < 1e-5).all() and (loose.protected > 1e-2).all()
    assert (clean.free > 1e-3).all()


@pytest.mark.parametrize("dora", [False, True])
def test_weight_of_an_adapted_layer_is_the_merged_one(dora: bool) -> None:
    model = get_peft_model(tiny(0), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], use_dora=dora))
    adapted = model.get_base_model()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    assert weighted_layers(adapted).keys() == weighted_layers(tiny(0)).keys()
    name = "model.layers.0.self_attn.q_proj"
    found = weight(adapted.get_submodule(name))
    merged = model.merge_and_unload().get_submodule(name).weight
    torch.testing.assert_close(found, merged.detach(), rtol=1e-4, atol=1e-5)
    assert (found - tiny(0).get_submodule(name).weight).norm() > 0.1


def test_compare_tells_before_after_and_change(
    lm: LlamaForCausalLM, blocks: Tensor, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [" ".join(WORDS[t][1:] for t in row if t < len(WORDS)) for row in blocks.tolist()]
    monkeypatch.setattr(module, "prose", lambda part: tuple(text) if part == "evaluation" else ())

    def scorer(model: LlamaForCausalLM) -> SimpleNamespace:
        return SimpleNamespace(lm=model, tokenizer=tokenizer, general=blocks, config=SimpleNamespace())

    settings = KnowledgeSettings(length=32, null_space=NullSpaceConfig(energy=0.2))
    table = compare(scorer(lm), scorer(shifted(lm)), settings).set_index(["weights", "part", "measure"])
    value = {key: row.value for key, row in table.iterrows()}
    before, after, change = (value[w, module.LM, "nats"] for w in ("before", "after", "change"))
    assert change == pytest.approx(after - before, abs=1e-9) and change != 0
    assert value["after", module.LM, "perplexity"] == pytest.approx(np.exp(after))
    row = table.loc[("change", module.LM, "nats")]
    assert row.low < row.value < row.high
    assert value["change", "2", "distance"] > 0 and value["change", "model.layers.0.mlp.up_proj", "protected"] > 0
    assert table.index.is_unique
    same = compare(scorer(lm), scorer(lm), settings)
    unmoved = same[(same.weights == "change") & same.measure.isin(["nats", "cloze", "distance", "moved"])]
    assert (unmoved.value == 0).all() and set(unmoved.measure) == {"nats", "cloze", "distance", "moved"}


def test_without_whole_words_the_cloze_is_left_out(tokenizer: PreTrainedTokenizerFast, blocks: Tensor) -> None:
    assert module._questions(tokenizer, torch.full((5, 40), len(WORDS)), 10) is None
    nats, right = module._answers(tiny(0), blocks, None, 8)
    assert list(module._summary(nats, right).measure) == ["nats", "perplexity"]


def test_a_method_without_language_model_is_refused() -> None:
    plain = SimpleNamespace(card=SimpleNamespace(name="SASRec"))
    with pytest.raises(ConfigError, match="SASRec has no language model"):
        compare(plain, plain, KnowledgeSettings())
