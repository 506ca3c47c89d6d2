"""A T5 that reads a text and writes the codes of an item, each level with vectors and a codebook of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5Stack

from unisr.data.batches import Batch
from unisr.errors import ConfigError
from unisr.models import packed
from unisr.models.backbone import Backbone, BackboneConfig
from unisr.models.generative.trie_scorer import TrieScorer
from unisr.models.identifiers import ItemIds
from unisr.models.tokenizer import register_texts
from unisr.models.trie import Trie


class TextToCodes(TrieScorer):
    """s_c = sum_t log p(z_t(c) | z_<t(c), query), nats; p = softmax of W_t d_t / sqrt(d).

    d_t [d] is the decoder's state after codes z_<t, W_t [K_t, d] the codebook of level t. Subclasses call
    `build_model`. The codes stand in the buffer `codes [V + 1, T]`, are stored with the weights and may grow level by
    level: scores are of the levels whose codes are known; without any, all items share one id and one score.
    """

    def build_model(
        self, backbone: BackboneConfig, sizes: tuple[int, ...], codes: Tensor, *, query_tokens: int, item_tokens: int
    ) -> None:
        """The T5, tables of the texts' first tokens, and vectors for codes [V + 1, T] of `sizes` [T].

        Raises:
            ConfigError: the backbone is not of the T5 family.
        """
        corpus = self.corpus
        self.backbone = Backbone(backbone, [*corpus.item_texts, *corpus.query_texts])
        if not packed.supports(self.backbone.model):
            raise ConfigError(f"backbone {backbone.name!r} is not of the T5 family; take t5 or a T5 of the hub")
        register_texts(self, self.backbone.tokenizer, {"query": corpus.query_texts}, limit=query_tokens)
        register_texts(self, self.backbone.tokenizer, {"item": corpus.item_texts}, limit=item_tokens)
        self.sizes, width = sizes, self.backbone.width
        # No code follows the last one, so that it needs no input vector.
        self.code_vectors = nn.ParameterList(torch.randn(size, width) for size in sizes[:-1])
        self.codebooks = nn.ParameterList(torch.randn(size, width) for size in sizes)
        self.register_buffer("codes", codes)
        self.plant()
        self.register_load_state_dict_post_hook(lambda scorer, _: scorer.plant())

    @property
    def history_length(self) -> tuple[int, int]:
        return (0, 0)

    @property
    def known(self) -> int:
        """Levels at which the items have codes."""
        return int((self.codes[1] >= 0).sum())

    @property
    def frozen(self) -> int:
        """First levels whose codebooks are not trained."""
        return 0

    @property
    def ids(self) -> ItemIds:
        """The items' codes of the levels known, of which there must be one."""
        return ItemIds(self.codes[:, : self.known].cpu(), self.sizes[: self.known])

    def plant(self) -> None:
        """Make the trie of the codes known; to be called when `codes` have changed."""
        codes = self.codes[:, : max(self.known, 1)].clone()
        # Without any code all items share one id.
        codes[1:].clamp_(min=0)
        self.trie = Trie(codes).to(self.codes.device)

    def path(self, states: Tensor, mask: Tensor, codes: Tensor) -> Tensor:
        """Decoder states before each of codes [n, t] and after the last, [n, t + 1, d]; `encode` gives the others."""
        inputs = [self.start.expand(len(states), -1), *(self.embed(t, c) for t, c in enumerate(codes.T))]
        return self.decoder(
            inputs_embeds=torch.stack(inputs, 1), encoder_hidden_states=states, encoder_attention_mask=mask.long(),
            use_cache=False,
        ).last_hidden_state  # fmt: skip

    def item_path(self, items: Tensor, level: int) -> Tensor:
        """d_0 … d_level of items [n], given their text and codes, [n, level + 1, d]."""
        return self.path(*self.encode(self.item_tokens[items], self.item_mask[items]), self.codes[items, :level])

    def encode(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states [B, W + 1, d] of texts [B, W] and an end token, which no text lacks; their mask."""
        tokens = F.pad(tokens, (0, 1), value=self.backbone.tokenizer.eos_token_id)
        mask = F.pad(mask, (0, 1), value=True)
        return self.backbone.model.get_encoder()(input_ids=tokens, attention_mask=mask.long()).last_hidden_state, mask

    def code_nll(self, states: Tensor, codes: Tensor) -> Tensor:
        """-log p of codes [n, T] after states [n, T, d], nats, mean over rows and levels."""
        nll = [F.cross_entropy(self.level_logits(t, states[:, t]), codes[:, t]) for t in range(codes.shape[1])]
        return torch.stack(nll).mean()

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.encode(self.query_tokens[batch.query], self.query_mask[batch.query])

    # What the trie decoder asks for.

    @property
    def writer(self) -> TextToCodes:
        return self

    @property
    def decoder(self) -> T5Stack:
        return self.backbone.model.get_decoder()

    @property
    def start(self) -> Tensor:
        return self.backbone.embedding.weight[self.backbone.model.config.decoder_start_token_id]

    def embed(self, level: int, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.code_vectors[level])

    def level_logits(self, level: int, hidden: Tensor) -> Tensor:
        codebook = self.codebooks[level].float()
        return hidden.float() * self.backbone.width**-0.5 @ (codebook.detach() if level < self.frozen else codebook).T


def numbered(n_items: int, sizes: tuple[int, ...]) -> Tensor:
    """Arbitrary ids [V + 1, T]: the numbers 0 … V - 1 of the items in mixed base, lowest digit first.

    The last level has what the others leave of a number, cut to its size: items may share an id there.
    """
    number, codes = torch.arange(n_items), []
    for size in sizes[:-1]:
        codes.append(number % size)
        number = number // size
    codes.append(number.clamp(max=sizes[-1] - 1))
    return F.pad(torch.stack(codes, 1), (0, 0, 1, 0), value=-1)
