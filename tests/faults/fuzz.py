"""Generated inputs: the strategies that the tests share, and how many examples each form of a test takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

EXAMPLES = [int(os.environ.get("UNISR_FUZZ", 60)), pytest.param(10_000, marks=pytest.mark.faults)]
PER_FILE = 5
"""Generated lines of a file, each of which counts as an input."""
T = TypeVar("T")


def fuzz(strategy: st.SearchStrategy[T], check: Callable[[T], Any], inputs: int, *, each: int = 1) -> None:
    """Call `check` with values that hold so many inputs, `each` to a value; the same ones in every call, and a failing
    one is made small."""

    @settings(max_examples=inputs // each, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink))  # fmt: skip
    @given(strategy)
    def case(value: T) -> None:
        check(value)

    case()


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "7", "-1", "0", "1.0", "1e3", "1e400", "nan", "inf", "None", "null", "true", "[1]", "{}", "9" * 25, "\0",
     "\ud800", "\u2028", "\x85", "\x0b", "١٢", "1_0", "+5", "0x1F", '"', "'", "a,b", "\\", "\ufeff", "=1+1", "<b>x</b>",
     "../../etc/passwd", "x" * 300]
)  # fmt: skip
"""Texts, with those that readers may take for something else."""
EDGES = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30]
NUMBERS = st.integers() | st.floats() | st.sampled_from(EDGES)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Values of JSON, and some that JSON has no word for."""


MARKS = [b"\n", b"\r", b'"', b"'", b",", b"{", b"}", b"\0", b"\\", b"\t", b"|", b" "]


def some(lines: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """`PER_FILE` of them."""
    return st.lists(lines, min_size=PER_FILE, max_size=PER_FILE)


@st.composite
def spoiled(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with some of them cut out, doubled, turned or put in."""
    content = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 6)))
        put = draw(st.binary(max_size=3) | st.sampled_from(MARKS))
        content = content[:start] + put + content[draw(st.sampled_from([start, end])) :]
    return content
