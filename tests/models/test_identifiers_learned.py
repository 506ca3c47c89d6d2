"""RQ-VAE, dual-purpose ids, collision handling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from sklearn.metrics import adjusted_rand_score

from unisr.errors import ConfigError, DataError
from unisr.models.identifiers import DualConfig, DualIds, RQVAEConfig, fit_dual, fit_rqvae, sinkhorn
from unisr.models.identifiers.autoencoder import mlp
from unisr.models.identifiers.collisions import separate
from unisr.models.identifiers.dual_purpose import DualAutoencoder
from unisr.models.identifiers.quantizer import Quantizer
from unisr.models.identifiers.rqvae import RQVAE

RQ = RQVAEConfig(sizes=(8, 8), hidden=(16,), latent=8, epochs=60, batch_size=64, warmup_epochs=5)
DUAL = DualConfig(codes=8, hidden=(16,), latent=8, epochs=60, batch_size=64, warmup_epochs=5)


@pytest.fixture(scope="module")
def views() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of 120 items in two views, [121, 12] and [121, 10]; item i is in group i % 8 of both."""
    rng = np.random.default_rng(0)
    group = np.arange(121) % 8
    made = [rng.normal(size=(8, d))[group] + 0.3 * rng.normal(size=(121, d)) for d in (12, 10)]
    for vectors in made:
        vectors[0] = np.nan
    return tuple(vectors.astype(np.float32) for vectors in made)


@pytest.fixture(scope="module")
def dual(views: tuple) -> DualIds:
    return fit_dual(*views, DUAL, seed=0)


def test_rqvae_learns_and_its_error_falls_with_every_level(views: tuple) -> None:
    fitted = fit_rqvae(views[0], RQ, seed=0)
    assert fitted.ids.codes.shape == (121, 2) and len(fitted.losses) == RQ.epochs
    assert fitted.losses[-1] < 0.5 * fitted.losses[0]
    assert 0.6 > fitted.errors[0] > fitted.errors[1] > 0
    assert adjusted_rand_score(np.arange(1, 121) % 8, fitted.ids.codes[1:, 0]) > 0.5
    assert fitted.report(model="rq")["error"].tolist() == list(fitted.errors)


def test_rqvae_passes_the_gradient_of_its_reconstruction_once() -> None:
    """Straight through: the encoder gets the gradient at the decoder's input, whatever the number of levels."""
    torch.manual_seed(0)
    model = RQVAE(6, RQ.model_copy(update={"commitment": 0.0, "sizes": (4, 4, 4)}))
    x = torch.rand(32, 6)
    with torch.no_grad():
        model.quantize(x)
    # Codes stand still in evaluation mode, as the two passes compared need.
    model.eval()
    z = model.encoder(x).detach()
    latent = model.quantize(x).latent.detach().requires_grad_()
    (at_input,) = torch.autograd.grad(F.mse_loss(model.decoder(latent), x), latent)
    expected = torch.autograd.grad((model.encoder(x) * at_input).sum(), model.encoder.parameters())
    found = torch.autograd.grad(F.mse_loss(model.decoder(model.quantize(x).latent), x), model.encoder.parameters())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    codes = model.quantize(x).codes
    residual = z
    for level, book in enumerate(model.quantizer.codebooks):
        nearest = (residual[:, None] - book[None]).square().sum(-1).argmin(1)
        assert nearest.equal(codes[:, level])
        residual = residual - book[nearest]


def test_quantizer_takes_the_nearest_code_and_moves_both_ends() -> None:
    level = Quantizer(3, 2, commitment=0.25)
    level.codes.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    x = torch.tensor([[0.9, 0.2], [0.1, 0.1]], requires_grad=True)
    value, number, loss = level(x)
    assert number.tolist() == [1, 0]
    torch.testing.assert_close(value, level.codes[number])
    squared = ((0.9 - 1) ** 2 + 0.2**2 + 2 * 0.1**2) / 4
    assert float(loss.detach()) == pytest.approx(1.25 * squared)
    to_x, to_codes = torch.autograd.grad(loss, [x, level.codes])
    torch.testing.assert_close(to_x, 0.25 * 2 * (x - level.codes[number]).detach() / 4)
    torch.testing.assert_close(to_codes[:2].flip(0), 2 * (level.codes[number] - x).detach() / 4)
    assert torch.autograd.grad(level(x)[0].sum(), x)[0].eq(1).all()


def test_with_sinkhorn_the_quantizer_spreads_samples() -> None:
    level = Quantizer(4, 2)
    level.codes.data = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    assert level.assign(x).unique().tolist() == [0]
    assert torch.bincount(level.assign(x, epsilon=0.05), minlength=4).min() >= 5


@pytest.fixture
def started(views: tuple, request: pytest.FixtureRequest) -> tuple[DualAutoencoder, dict[str, torch.Tensor]]:
    """A model whose codes are on their k-means centers, with as many shared levels as asked, and its vectors."""
    torch.manual_seed(0)
    config = DUAL.model_copy(update={"shared_levels": getattr(request, "param", 2)})
    model = DualAutoencoder({"semantic": 12, "collaborative": 10}, config)
    x = {name: torch.from_numpy(v[1:]) for name, v in zip(model.names, views, strict=True)}
    with torch.no_grad():
        model.quantize(x, seed=0)
    return model, x


@pytest.mark.parametrize("started", [0, 1, 2], indirect=True)
def test_encoders_learn_from_the_first_commitment_and_the_reconstruction_alone(started: tuple) -> None:
    model, x = started
    parameters = list(model.encoders.parameters())
    found = torch.autograd.grad(model.quantize(x).loss, parameters)
    z = torch.cat([model.encoders[name](x[name]) for name in model.names], dim=1)
    first = [model.shared[0]] if len(model.shared) else [model.specific[name][0] for name in model.names]
    levels, commitment = len(model.shared) + 4, 0.0
    for level, part in zip(first, z.chunk(len(first), dim=1), strict=True):
        commitment += 0.25 * F.mse_loss(part, level.codes[torch.cdist(part, level.codes).argmin(1)].detach())
    for one, other in zip(found, torch.autograd.grad(commitment / levels, parameters), strict=True):
        torch.testing.assert_close(one, other)
    model.loss(x).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_sinkhorn_moves_the_last_code_of_each_view_alone(started: tuple) -> None:
    model, x = started
    near, even = model.quantize(x), model.quantize(x, epsilon=0.003)
    for name in model.names:
        assert near.codes[name][:, :3].equal(even.codes[name][:, :3])
        assert not near.codes[name][:, 3].equal(even.codes[name][:, 3])
        widest = [int(torch.bincount(done.codes[name][:, 3], minlength=8).max()) for done in (near, even)]
        assert widest[1] < widest[0] and widest[1] <= 18


def test_latents_are_shared_halves_plus_own_codes(started: tuple) -> None:
    model, x = started
    with torch.no_grad():
        done = model.quantize(x)
    for name, half in zip(model.names, (slice(0, 8), slice(8, 16)), strict=True):
        codes = done.codes[name]
        expected = sum(model.shared[t].codes[codes[:, t]][:, half] for t in range(2))
        expected = expected + sum(model.specific[name][t].codes[codes[:, 2 + t]] for t in range(2))
        torch.testing.assert_close(done.latents[name], expected.detach(), rtol=1e-4, atol=1e-5)
        rebuilt = F.mse_loss(model.decoders[name](expected), x[name]) / x[name].square().mean()
        assert model.errors(name, x[name], codes)[-1] == pytest.approx(float(rebuilt.detach()), rel=1e-4)


def test_both_tasks_share_the_first_codes_and_differ_in_the_rest(dual: DualIds) -> None:
    assert dual.rec.codes[:, :2].equal(dual.src.codes[:, :2])
    assert not dual.rec.codes[:, 2:].equal(dual.src.codes[:, 2:])
    assert dual.rec.sizes == dual.src.sizes == (8, 8, 8, 8) and dual.losses[-1] < 0.8 * dual.losses[0]


def test_the_report_tells_ids_before_and_after_collision_handling(dual: DualIds) -> None:
    frame = dual.report.set_index(["ids", "stage", "level"]).sort_index()
    assert len(frame) == 16
    for task, ids in (("rec", dual.rec), ("src", dual.src)):
        assert frame.loc[(task, "after", 4), "collision_rate"] == pytest.approx(ids.collision_rate())
        assert frame.loc[(task, "after", 4), "collision_rate"] <= frame.loc[(task, "before", 4), "collision_rate"]
        assert frame.loc[(task, "before", 3)].equals(frame.loc[(task, "after", 3)])
        errors = frame.loc[(task, "before"), "error"].tolist()
        assert 0.9 > errors[0] > errors[-1] > 0


@pytest.mark.parametrize("kind", ["semantic", "collaborative"])
def test_one_view_gives_one_id_for_both_tasks(views: tuple, kind: str) -> None:
    given = dict(zip(("semantic", "collaborative"), views, strict=True))
    alone = {name: v if name == kind else None for name, v in given.items()}
    config = DUAL.model_copy(update={"kind": kind, "epochs": 10})
    made = fit_dual(**alone, config=config, seed=0)
    assert made.rec.codes.equal(made.src.codes) and made.rec.levels == 4 and len(made.report) == 16
    with_both = fit_dual(**given, config=config, seed=0)
    assert with_both.rec.codes.equal(made.rec.codes)


def test_fits_repeat_themselves_and_leave_the_global_generator_alone(views: tuple) -> None:
    short = {"epochs": 3}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    made = [fit_dual(*views, DUAL.model_copy(update=short), seed=1) for _ in range(2)]
    rq = [fit_rqvae(views[0], RQ.model_copy(update=short), seed=1) for _ in range(2)]
    assert torch.random.get_rng_state().equal(state)
    assert made[0].rec.codes.equal(made[1].rec.codes) and made[0].losses == made[1].losses
    assert rq[0].ids.codes.equal(rq[1].ids.codes) and rq[0].losses == rq[1].losses
    assert fit_rqvae(views[0], RQ.model_copy(update=short), seed=2).losses != rq[0].losses


def test_the_weights_with_the_fewest_collisions_are_used_unless_the_last_are_asked_for(views: tuple) -> None:
    config = DUAL.model_copy(update={"epochs": 10, "warmup_epochs": 0, "learning_rate": 0.05, "check_every": 1})
    last = fit_dual(*views, config.model_copy(update={"select": "last"}), seed=0)
    best = fit_dual(*views, config, seed=0)
    assert best.losses == last.losses
    assert best.epoch < last.epoch == 10 and _before(best) < _before(last)


def _before(made: DualIds) -> float:
    frame = made.report
    return float(frame[(frame["stage"] == "before") & (frame["level"] == 4)]["collision_rate"].mean())


def test_colliding_items_alone_move_to_other_last_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.rand(16, 3, generator=generator)
    last = torch.rand(50, 3, generator=generator) * 0.3
    codes = torch.stack([torch.arange(50) // 7, torch.cdist(last, codebook).argmin(1)], dim=1)
    once = separate(codes, last, codebook, epsilon=0.003, rounds=1)
    groups = {tuple(row): (codes == torch.tensor(row)).all(1).nonzero().flatten() for row in codes.tolist()}
    for rows in groups.values():
        if len(rows) == 1:
            assert once[rows].equal(codes[rows])
        else:
            alone = sinkhorn(torch.cdist(last[rows], codebook) ** 2, epsilon=0.003).argmax(1)
            assert once[rows, 1].equal(alone)
    assert once[:, 0].equal(codes[:, 0]) and len(groups) < len(once.unique(dim=0))
    many = separate(codes, last, codebook, epsilon=0.003, rounds=20)
    assert len(many.unique(dim=0)) == 50
    assert separate(codes, last, codebook, epsilon=0.0, rounds=20).equal(codes)
    assert separate(codes, last, codebook, epsilon=0.003, rounds=0).equal(codes)


def test_items_with_equal_vectors_keep_one_id(views: tuple) -> None:
    twins = [np.concatenate([v, v[1:31]]) for v in views]
    made = fit_dual(*twins, DUAL.model_copy(update={"epochs": 5}), seed=0)
    assert made.rec.codes[1:31].equal(made.rec.codes[121:]) and made.rec.shared() >= 60
    assert made.rec.with_counter().collision_rate() == 0


def test_what_cannot_be_fitted_is_refused(views: tuple) -> None:
    semantic, collaborative = views
    with pytest.raises(DataError, match="needs collaborative vectors"):
        fit_dual(semantic, None, DUAL, seed=0)
    with pytest.raises(DataError, match="'semantic': 120, 'collaborative': 119"):
        fit_dual(semantic, collaborative[:-1], DUAL, seed=0)
    with pytest.raises(ConfigError, match="for 120 items"):
        fit_dual(semantic, collaborative, DUAL.model_copy(update={"codes": 121}), seed=0)
    with pytest.raises(ConfigError, match="for 120 items"):
        fit_rqvae(semantic, RQ.model_copy(update={"sizes": (8, 300)}), seed=0)
    with pytest.raises(DataError, match="finite"):
        fit_rqvae(np.where(np.arange(12) == 3, np.nan, semantic), RQ, seed=0)
    with pytest.raises(ValidationError):
        RQVAEConfig(sizes=())


def test_mlp_is_linear_last_and_starts_without_bias() -> None:
    net = mlp((3, 5, 2))
    x = torch.rand(4, 3)
    expected = torch.relu(x @ net[0].weight.T) @ net[2].weight.T
    torch.testing.assert_close(net(x), expected)
    assert len(net) == 3
