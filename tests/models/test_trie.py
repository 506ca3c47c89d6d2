"""The trie's arrays against a dictionary of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unisr.errors import DataError
from unisr.models.trie import Trie


def as_codes(ids: list[tuple[int, ...]], length: int) -> torch.Tensor:
    """Rows of codes, -1 after each id; row 0 is padding."""
    return torch.tensor([[-1] * length, *([*one, *[-1] * (length - len(one))] for one in ids)])


@st.composite
def id_lists(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Ids of few codes, so that prefixes and whole ids repeat; some are empty. 3 ends an id where lengths vary."""
    if draw(st.booleans()):
        one = st.tuples(*[st.integers(0, 3)] * draw(st.integers(1, 4)))
    else:
        one = st.lists(st.integers(0, 2), max_size=3).map(lambda codes: (*codes, 3))
    ids = draw(st.lists(one, min_size=1, max_size=30))
    return [() if draw(st.integers(0, 9)) == 0 else codes for codes in ids[1:]] + ids[:1]


@settings(max_examples=100, deadline=None)
@given(ids=id_lists())
def test_arrays_are_those_of_a_dictionary_of_prefixes(ids: list[tuple[int, ...]]) -> None:
    length = max(map(len, ids))
    trie = Trie(as_codes(ids, length))
    prefixes = {one[:size] for one in ids for size in range(len(one) + 1)}
    # Level by level, in the order of the codes.
    numbered = sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: k for k, prefix in enumerate(numbered)}
    assert trie.n_nodes == len(numbered) and trie.n_items == len(ids) and trie.n_levels == length
    for k, prefix in enumerate(numbered):
        assert int(trie.level[k]) == len(prefix)
        assert int(trie.code[k]) == (prefix[-1] if prefix else -1)
        assert int(trie.parent[k]) == (number[prefix[:-1]] if prefix else -1)
        children = [number[other] for other in numbered if other[:-1] == prefix and other]
        first, count = int(trie.first_child[k]), int(trie.n_children[k])
        assert list(range(first, first + count)) == children
        held = [item for item, one in enumerate(ids, 1) if one and one == prefix]
        assert trie.items[trie.first_item[k] : trie.first_item[k + 1]].tolist() == held
    for item, one in enumerate(ids, 1):
        path = [number[one[: size + 1]] for size in range(len(one))]
        assert trie.path[item].tolist() == path + [-1] * (length - len(one))
        assert int(trie.leaf[item]) == (number[one] if one else -1)
    assert trie.path[0].eq(-1).all() and int(trie.leaf[0]) == -1
    inner = [len(prefix) for k, prefix in enumerate(numbered) if trie.n_children[k]]
    assert trie.widest == max(inner.count(level) for level in inner)


def test_an_id_that_begins_another_names_both_items() -> None:
    with pytest.raises(DataError, match=r"item 2, \[1, 2\], begins the id of item 4, \[1, 2, 3\]"):
        Trie(as_codes([(5, 1), (1, 2), (1, 3), (1, 2, 3)], 3))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3), "int64"),
        (torch.zeros(3, 2, dtype=torch.int32), "int32"),
        (torch.zeros(2, 2, dtype=torch.int64), "row 0"),
        (torch.tensor([[-1, -1], [-1, 4]]), "item 1 has a code after the end"),
        (torch.tensor([[-1, -1], [-1, -1]]), "none of the 1 items"),
    ],
)
def test_bad_codes_are_named(codes: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trie(codes)


def test_arrays_move_with_the_module_and_are_not_stored() -> None:
    trie = Trie(as_codes([(0, 1), (0, 2)], 2))
    assert not trie.state_dict()
    assert {buffer.device.type for buffer in trie.to("meta").buffers()} == {"meta"}


def test_many_items() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (20_001, 4))
    codes[0] = -1
    trie = Trie(torch.from_numpy(codes))
    assert trie.n_nodes == 1 + sum(len(np.unique(codes[1:, :level], axis=0)) for level in range(1, 5))
    back = torch.stack([trie.code[trie.path[1:, level]] for level in range(4)], dim=1)
    assert torch.equal(back, torch.from_numpy(codes[1:]))
