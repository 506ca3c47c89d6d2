"""Null spaces of general text: second moments against a plain loop, projectors, updates that text does not notice."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from unisr.analysis.null_space import simulated_leakage
from unisr.config import NullSpaceConfig
from unisr.errors import ConfigError
from unisr.training.null_space import moments, projector, projectors

SHAPE = LlamaConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def lm() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(SHAPE)


@pytest.fixture(scope="module")
def blocks() -> Tensor:
    return torch.randint(0, 50, (40, 32), generator=torch.Generator().manual_seed(1))


def layers_of(lm: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in lm.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}


def random_moment(spectrum: list[float]) -> Tensor:
    basis = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=torch.Generator().manual_seed(2)))[0]
    return basis @ torch.diag(torch.tensor(spectrum)) @ basis.T


@pytest.mark.parametrize("side", ["input", "output"])
def test_moments_are_means_over_tokens(lm: LlamaForCausalLM, blocks: Tensor, side: str) -> None:
    layers = layers_of(lm)
    found = moments(lm, layers, blocks, side=side, tokens=33 * 32 - 5)
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_hook(lambda _, x, y, own=seen[name]: own.append(x[0] if side == "input" else y))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for row in blocks[:33]:
            lm(input_ids=row[None])
    for hook in hooks:
        hook.remove()
    for name, own in seen.items():
        vectors = torch.cat([s.flatten(0, -2) for s in own]).double()
        expected = torch.einsum("ni,nj->ij", vectors, vectors) / len(vectors)
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-5)


def test_layers_of_one_input_share_a_moment(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    found = moments(lm, layers_of(lm), blocks, side="input")
    assert len(found) == 14 and len({id(m) for m in found.values()}) == 8
    attention = [found[f"model.layers.1.self_attn.{name}_proj"] for name in "qkv"]
    assert attention[0] is attention[1] is attention[2]


def test_energy_bounds_what_the_null_space_holds_and_takes_all_it_can() -> None:
    moment = random_moment([5.0, 3.0, 1.0, 0.5, 0.3, 0.2])
    for energy, count in ((0.01, 1), (0.021, 1), (0.051, 2), (0.101, 3), (0.501, 5)):
        p = projector(moment, NullSpaceConfig(energy=energy)).double()
        assert round(float(p.trace())) == count
        torch.testing.assert_close(p @ p, p, atol=1e-6, rtol=0)
        torch.testing.assert_close(p, p.T)
        if energy > 0.02:
            assert float((p @ moment.double()).trace()) <= energy * 10 + 1e-6


def test_threshold_is_absolute() -> None:
    moment = random_moment([5.0, 3.0, 1e-2, 1e-3])
    found = [projector(moment * s, NullSpaceConfig(energy=None, threshold=2e-2)) for s in (1, 10)]
    assert [round(float(p.trace())) for p in found] == [2, 1]


def test_the_lowest_directions_stand_in_for_an_empty_null_space() -> None:
    spectrum = [float(i) for i in range(1, 61)]
    p = projector(random_moment(spectrum), NullSpaceConfig(energy=None, threshold=0.5)).double()
    assert round(float(p.trace())) == 3
    assert float((p @ random_moment(spectrum).double()).trace()) == pytest.approx(1 + 2 + 3, rel=1e-4)


def test_an_update_through_p_leaves_protected_inputs_alone(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    layers = layers_of(lm)
    random = torch.Generator().manual_seed(3)
    for name, p in projectors(lm, layers, blocks, NullSpaceConfig(energy=0.2)).items():
        width = layers[name].in_features
        assert p.shape == (width, width) and p.dtype == torch.float32
        # Coordinates in the protected space, from another factorization than the module's.
        u, s, _ = torch.linalg.svd(torch.eye(width, dtype=torch.float64) - p.double())
        protected = u[:, s > 0.5]
        assert 0 < protected.shape[1] < width
        change = torch.randn(layers[name].out_features, width, generator=random) @ p
        assert (change.double() @ protected).norm() <= 1e-6 * change.norm()


def test_output_side_has_the_size_of_outputs(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    layers = layers_of(lm)
    found = projectors(lm, layers, blocks, NullSpaceConfig(side="output"))
    assert {n: tuple(p.shape) for n, p in found.items()} == {n: (m.out_features,) * 2 for n, m in layers.items()}


def test_the_model_is_left_as_it_was(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    lm.train()
    lm.model.layers[0].eval()
    before = {n: part.training for n, part in lm.named_modules()}
    projectors(lm, layers_of(lm), blocks[:2], NullSpaceConfig())
    assert {n: part.training for n, part in lm.named_modules()} == before
    assert not any(part._forward_hooks for part in lm.modules()) and all(p.grad is None for p in lm.parameters())
    lm.eval()


def test_bad_input_is_named(lm: LlamaForCausalLM, blocks: Tensor) -> None:
    with pytest.raises(ConfigError, match="no general text"):
        projectors(lm, layers_of(lm), blocks[:0], NullSpaceConfig())
    with pytest.raises(ConfigError, match="never calls other"):
        projectors(lm, {**layers_of(lm), "other": nn.Linear(2, 2)}, blocks[:1], NullSpaceConfig())


def test_the_released_form_leaks_on_random_gradients_and_the_clean_one_does_not() -> None:
    leak = partial(simulated_leakage, rank=8, null=20, steps=5)
    assert leak((32, 32), side="input") < 1e-8 and leak((48, 32), side="input") < 1e-8
    assert leak((32, 32), side="output") > 0.1 and leak((48, 32), side="output") > 0.1
    assert leak((32, 48), side="output") < 1e-8, "the left basis lies in the null space itself"
    assert leak((32, 32), side="output") == leak((32, 32), side="output")
