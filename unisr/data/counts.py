"""A prepared dataset's counts beside the published ones, and the filters that explain a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisr.data.prepare import describe
from unisr.data.schema import Dataset
from unisr.data.sources import source

Left = Sequence[tuple[str, Mapping[str, int]]]
"""What each filter left, as `Dataset.filters`."""


def compare(dataset: Dataset) -> dict[str, Any]:
    """What there is to tell of a dataset's counts, as plain values.

    dataset: its name. counts: as `describe`. filters: a list of name and counts, in the order in which the builder
    applied them. paper: the published counts, empty if there are none. differences: one sentence for each count
    that is not the published one.
    """
    here, paper = describe(dataset), dict(source(dataset.name).paper_counts or {})
    return {
        "dataset": dataset.name,
        "counts": here,
        "filters": [{"filter": name, "counts": dict(counts)} for name, counts in dataset.filters],
        "paper": paper,
        "differences": [explain(n, here[n], paper[n], dataset.filters) for n in paper if here[n] != paper[n]],
    }


def explain(name: str, here: int, paper: int, filters: Left) -> str:
    """Which filter explains that the count `name` is not the paper's, in one sentence.

    The paper's count is looked for among those that the filters left one after the other; of the filters after the
    nearest, the one that takes most is named.
    """
    trail = [(title, counts[name]) for title, counts in filters if name in counts]
    told = f"{name}: {here - paper:+,} ({here / paper - 1:+.1%})"
    if not trail:
        return f"{told}; no filter counts it"
    first, most = max(trail, key=lambda step: step[1])
    if paper > most:
        return f"{told}; no filter explains it: there are {most:,} at most ({first!r})"
    # Of equally near counts the last, so that a filter that takes nothing is not named.
    nearest = min(range(len(trail)), key=lambda i: (abs(trail[i][1] - paper), -i))
    title, count = trail[nearest]
    told += f"; the paper's is {'that' if count == paper else f'nearest to the {count:,}'} of {title!r}"
    taken = [(trail[i - 1][1] - trail[i][1], trail[i][0]) for i in range(nearest + 1, len(trail))]
    number, taker = max(taken, key=lambda step: step[0], default=(0, ""))
    return f"{told}, after which {taker!r} takes most, {number:,}" if number > 0 else told


def table(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text from what `compare` told: a header, one of each filter, the counts, and the paper's if any."""
    names = list(told["counts"])
    rows = [(f["filter"], f["counts"]) for f in told["filters"]] + [("prepared", told["counts"])]
    if told["paper"]:
        rows.append(("paper", told["paper"]))
    cells = [(title, *(f"{counts[n]:,}" if n in counts else "" for n in names)) for title, counts in rows]
    return [("filter", *names), *cells]
