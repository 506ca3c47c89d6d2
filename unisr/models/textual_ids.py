"""Textual item ids: a few telling words of each item's text, no two items with the same words in the same order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from unisr.data.corpus import words_of

CONSIDERED = 8
"""Most telling words of a text that ids are combined from: at most 2^8 combinations are looked at per item."""

TextualId = tuple[str, ...]


def textual_ids(texts: Sequence[str], *, least: int = 3, most: int = 5) -> list[TextualId]:
    """An id of `least` to `most` words per text, `[n]`; the empty id for the first, which is padding.

    Words are telling by tf-idf over the texts, ties by their place. An item takes the shortest combination of its
    telling words that no earlier item has, the most telling first; the words keep their order in the text. Shorter
    texts give shorter ids. Where every combination is taken, as with equal texts, the digits of a running number
    follow the longest one.
    """
    split = [list(dict.fromkeys(words_of(text))) for text in texts]
    counts = [Counter(words_of(text)) for text in texts]
    spread = Counter(word for words in split for word in words)
    ids: list[TextualId] = [()]
    used: set[TextualId] = {()}
    numbers: Counter[TextualId] = Counter()
    for words, count in zip(split[1:], counts[1:], strict=True):
        tfidf = {word: count[word] * math.log(len(texts) / spread[word]) for word in words}
        telling = sorted(range(len(words)), key=lambda place: (-tfidf[words[place]], place))[:CONSIDERED]
        combined = (tuple(words[place] for place in chosen) for chosen in _combinations(telling, least, most))
        free = next((found for found in combined if found not in used), None)
        if free is None:
            longest = tuple(words[place] for place in sorted(telling[:most])) or ("item",)
            while free is None or free in used:
                numbers[longest] += 1
                free = (*longest, *str(numbers[longest] + 1))
        ids.append(free)
        used.add(free)
    return ids


def _combinations(telling: Sequence[int], least: int, most: int) -> Iterator[tuple[int, ...]]:
    """Places of the words, shorter combinations first, the most telling first, each in the order of the text."""
    for size in range(min(least, len(telling)), min(most, len(telling)) + 1):
        for chosen in combinations(telling, size) if size else ():
            yield tuple(sorted(chosen))


def id_tokens(ids: Sequence[TextualId], vocabulary: dict[str, int], *, end: int) -> Tensor:
    """Token ids of words and `end`, `[n, T]`, right-padded with 0; an empty id is all padding.

    Words are added to `vocabulary` (token of each word) as they come.
    """
    table = torch.zeros(len(ids), max(map(len, ids)) + 1, dtype=torch.long)
    for row, words in enumerate(ids):
        if words:
            tokens = [vocabulary.setdefault(word, len(vocabulary)) for word in words]
            table[row, : len(tokens) + 1] = torch.tensor([*tokens, end])
    return table
