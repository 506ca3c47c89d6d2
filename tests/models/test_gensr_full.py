"""GenSR-full: contract, and what its prompt holds."""

from __future__ import annotations

import torch

from tests.contract import ScorerContract, Setting, changed, scores
from unisr.data.batches import Batch
from unisr.models.base import Scorer

ONE_KEY = "the decoder has one position, so attention over it is 1 whatever queries and keys are"


class TestGenSRFull(ScorerContract):
    method = "GenSR-full"
    no_gradient = {
        f"backbone.model.decoder.block.{layer}.layer.0.SelfAttention.{part}.weight": ONE_KEY
        for layer, part in [(0, "q"), (0, "k"), (1, "q"), (1, "k"), (0, "relative_attention_bias")]
    }

    def test_scores_are_a_distribution_over_the_catalog(self, scorer: Scorer, batch: Batch) -> None:
        with torch.inference_mode():
            chosen = scorer.catalog_logits(scorer.states(batch)).log_softmax(1)
        torch.testing.assert_close(chosen.exp().sum(1), torch.ones(len(batch)))

    def test_the_loss_is_the_negative_log_probability_of_the_positive(self, setting: Setting, scorer: Scorer) -> None:
        batch = setting.training_batch(scorer, 8)
        with torch.inference_mode():
            log_p = scorer.score_catalog(batch).log_softmax(1)
            terms = scorer.losses(batch)
        picked = [-log_p[row, batch.candidates[row, batch.labels[row].argmax()] - 1] for row in range(8)]
        torch.testing.assert_close(terms["rec"] + terms["src"], torch.stack(picked).mean())

    def test_candidates_are_not_in_the_prompt(self, scorer: Scorer, batch: Batch) -> None:
        other = changed(batch, candidates=batch.candidates.flip(1))
        assert torch.equal(scores(scorer, other).flip(1), scores(scorer, batch))
