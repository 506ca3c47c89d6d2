"""Fixtures shared by all tests. Data and results go to temporary folders: the user's are never touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisr.data import load_dataset
from unisr.data.schema import Dataset
from unisr.errors import DataError


@pytest.fixture(scope="session", autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """UNISR_DATA and UNISR_RESULTS point to folders that live as long as the session (child processes see them)."""
    root = tmp_path_factory.mktemp("unisr")
    saved = {k: os.environ.get(k) for k in ("UNISR_DATA", "UNISR_RESULTS")}
    os.environ.update(UNISR_DATA=str(root / "data"), UNISR_RESULTS=str(root / "results"))
    yield root
    for key, value in saved.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value


@pytest.fixture(scope="session")
def world(_private_folders: Path) -> Dataset:
    """The synthetic dataset of seed 0; its truth is `synthetic.truth(0)`."""
    return load_dataset("synthetic")


@pytest.fixture(scope="session")
def movies(_private_folders: Path) -> Dataset:
    """ml-100k, fetched into the temporary data folder; skips where it cannot be had."""
    try:
        return load_dataset("ml-100k")
    except DataError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def office(_private_folders: Path) -> Dataset:
    """office, from UNISR_OFFICE or a `shared` folder beside the checkout; skips where neither is there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "office_products_2018"
    folder = beside if beside.is_dir() and not os.environ.get("UNISR_OFFICE") else None
    try:
        return load_dataset("office", folder=folder)
    except DataError as reason:
        pytest.skip(str(reason))
