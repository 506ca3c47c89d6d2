"""A prefix trie of item ids as arrays: every question about it is a gather."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unisr.errors import DataError


class Trie(nn.Module):
    """The ids of a catalog `codes [V+1, T]`, row 0 (padding) all -1, -1 after the end of a shorter id.

    Nodes are numbered level by level, root 0, the children of a node side by side in the order of their codes; an id
    ends at a leaf of its own, which it may share with equal ids. All arrays are int64 buffers that move with the
    module and are not stored with weights, as they follow from the codes:

    parent, code, level [nodes]      of each node; -1, -1, 0 for the root, level t + 1 after the code of level t
    first_child, n_children [nodes]  the children of node n are first_child[n] … first_child[n] + n_children[n] - 1
    path [V+1, T]                    node of each item after each of its codes, -1 where it has none
    leaf [V+1]                       node at which an item's id ends, -1 without an id
    first_item [nodes + 1], items    the items whose id ends at node n are items[first_item[n] : first_item[n + 1]],
                                     by item number

    Raises:
        DataError: codes of another shape, gaps in an id, an id for item 0, no id at all, or an id that begins another.

    >>> trie = Trie(torch.tensor([[-1, -1], [0, 3], [0, 4], [1, 3]]))
    >>> trie.n_children.tolist()  # the root, codes 0 and 1, three leaves
    [2, 2, 1, 0, 0, 0]
    >>> trie.path[2].tolist()  # the nodes of item 2
    [1, 4]
    """

    parent: Tensor
    code: Tensor
    level: Tensor
    first_child: Tensor
    n_children: Tensor
    path: Tensor
    leaf: Tensor
    first_item: Tensor
    items: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        table = codes.detach().cpu().numpy()
        _check(table)
        for name, array in _arrays(table).items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        _check_prefix_free(self, table)
        self.n_levels = table.shape[1]
        """T, the codes of the longest id."""
        self.widest = int(torch.bincount(self.level[self.n_children > 0]).max())
        """Most nodes with children in one level: decoder positions of a whole level."""

    @property
    def n_nodes(self) -> int:
        return len(self.parent)

    @property
    def n_items(self) -> int:
        """V, with or without an id; item 0 does not count."""
        return len(self.path) - 1


def _arrays(codes: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of `Trie`, one `numpy.unique` a level over (node above, code)."""
    path = np.full(codes.shape, -1)
    above, span, count = np.zeros(len(codes), dtype=np.int64), int(codes.max()) + 1, 1
    parents, coded, levels = [np.array([-1])], [np.array([-1])], [np.array([0])]
    for level in range(codes.shape[1]):
        going = np.flatnonzero(codes[:, level] >= 0)
        keys, node = np.unique(above[going] * span + codes[going, level], return_inverse=True)
        above[going] = path[going, level] = count + node
        parents.append(keys // span)
        coded.append(keys % span)
        levels.append(np.full(len(keys), level + 1))
        count += len(keys)
    parent = np.concatenate(parents)
    n_children = np.bincount(parent[1:], minlength=count)
    leaf = np.where(codes[:, 0] >= 0, above, -1)
    ending = np.flatnonzero(leaf >= 0)
    n_items = np.bincount(leaf[ending], minlength=count)
    return {
        "parent": parent,
        "code": np.concatenate(coded),
        "level": np.concatenate(levels),
        # Breadth-first numbers: the children of all nodes before n come before those of n, and the root before all.
        "first_child": 1 + np.cumsum(n_children) - n_children,
        "n_children": n_children,
        "path": path,
        "leaf": leaf,
        "first_item": np.concatenate([[0], np.cumsum(n_items)]),
        "items": ending[np.argsort(leaf[ending], kind="stable")],
    }


def _check(codes: np.ndarray) -> None:
    if codes.ndim != 2 or codes.dtype != np.int64 or not codes.size:
        raise DataError(f"codes of items must be int64 [V+1, T]; these are {codes.dtype} {list(codes.shape)}")
    if (codes[0] >= 0).any():
        raise DataError(f"row 0 of the codes is padding and must be all -1; it is {codes[0].tolist()}")
    gaps = ((codes[:, :-1] < 0) & (codes[:, 1:] >= 0)).any(1)
    if gaps.any():
        item = int(gaps.argmax())
        raise DataError(f"item {item} has a code after the end of its id, {codes[item].tolist()}; -1 only at the end")
    if not (codes[:, 0] >= 0).any():
        raise DataError(f"none of the {len(codes) - 1} items has an id: column 0 of the codes is all -1")


def _check_prefix_free(trie: Trie, codes: np.ndarray) -> None:
    leaf, path = trie.leaf.numpy(), trie.path.numpy()
    begins = (leaf >= 0) & (trie.n_children.numpy()[leaf] > 0)
    if begins.any():
        item = int(begins.argmax())
        longer = int(((path == leaf[item]).any(1) & (leaf != leaf[item])).argmax())
        ids = [codes[k][codes[k] >= 0].tolist() for k in (item, longer)]
        raise DataError(
            f"the id of item {item}, {ids[0]}, begins the id of item {longer}, {ids[1]}; "
            "end every id with an end code, or give all ids the same length"
        )
