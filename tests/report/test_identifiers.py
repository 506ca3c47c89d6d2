"""Figures of item ids: every item is in the tree once, relatives share a beginning, the map has every item."""

import numpy as np
import pytest
import torch

from unisr.errors import UnknownNameError
from unisr.models.identifiers import ItemIds
from unisr.report import identifiers

CODES = [[-1, -1, -1], [0, 1, 2], [0, 1, 3], [0, 2, 2], [1, 1, 2], [0, 1, 2]]
TITLES = ["", "a", "b", "c", "d", "e"]


@pytest.fixture
def ids() -> ItemIds:
    return ItemIds(torch.tensor(CODES), (2, 3, 4))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_boxes_hold_what_their_children_hold(ids: ItemIds, levels: int) -> None:
    (boxes,) = identifiers.tree(ids, TITLES, levels=levels, title="t").data
    size = dict(zip(boxes.ids, boxes.values, strict=True))
    assert len(size) == len(boxes.ids), "ids are unique"
    inner = set(boxes.parents) - {""}
    for parent in inner:
        assert size[parent] == sum(size[i] for i, p in zip(boxes.ids, boxes.parents, strict=True) if p == parent)
    leaves = [text for start, text in zip(boxes.ids, boxes.text, strict=True) if start not in inner]
    assert sorted(title for text in leaves for title in text.split("<br>")) == TITLES[1:]


def test_relatives_come_by_length_of_the_common_beginning(ids: ItemIds) -> None:
    page = identifiers.relatives(ids, TITLES, "a")
    places = [page.index(f">{title}<") for title in "ebc"]
    assert places == sorted(places) and ">d<" not in page and "0 1 2" in page
    assert "no item begins alike" in identifiers.relatives(ids, TITLES, "d")
    with pytest.raises(UnknownNameError, match="title"):
        identifiers.relatives(ids, TITLES, "z")


def test_the_map_shows_every_item_once(ids: ItemIds) -> None:
    places = np.arange(10.0).reshape(5, 2)
    plot = identifiers.plane(places, ids, TITLES, title="t", shown=1)
    assert [trace.name for trace in plot.data] == ["code 0", "other codes"]
    assert sorted(x for trace in plot.data for x in trace.x) == places[:, 0].tolist()
    named = {text: x for trace in plot.data for x, text in zip(trace.x, trace.text, strict=True)}
    assert named == dict(zip(TITLES[1:], places[:, 0], strict=True))


@pytest.mark.slow
def test_near_vectors_stay_near_in_the_plane() -> None:
    rng = np.random.default_rng(0)
    centers = np.eye(8, dtype=np.float32)[[0, 3]]
    vectors = np.concatenate([np.zeros((1, 8)), *(c + 0.05 * rng.normal(size=(20, 8)) for c in centers)])
    places = identifiers.coordinates(vectors.astype(np.float32))
    assert places.shape == (40, 2)
    middle = np.stack([places[:20].mean(0), places[20:].mean(0)])
    nearest = np.linalg.norm(places[:, None] - middle, axis=-1).argmin(1)
    assert nearest.tolist() == [0] * 20 + [1] * 20
