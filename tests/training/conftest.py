"""A tiny scorer and a keyed loader: all that the loop asks of a method."""

from __future__ import annotations

import pytest

from tests.training.tiny import TinyLoader, TinyScorer, tiny_scorer


@pytest.fixture
def scorer() -> TinyScorer:
    return tiny_scorer()


@pytest.fixture
def loader() -> TinyLoader:
    return TinyLoader()
