"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import unisr

MODULES = [m.name for m in pkgutil.walk_packages(unisr.__path__, "unisr.") if not m.name.endswith("__main__")]


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [found for name in MODULES for found in finder.find(importlib.import_module(name)) if found.examples]


@pytest.mark.parametrize("found", examples(), ids=lambda found: found.name)
def test_the_examples_of_a_docstring(found: doctest.DocTest) -> None:
    assert not doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found).failed


def test_the_main_functions_have_examples() -> None:
    named = {found.name.rsplit(".", 1)[-1] for found in examples()}
    assert {"ndcg", "expected_rank", "released_rank", "holm", "paired_test", "estimate", "Trie", "Weights"} <= named
