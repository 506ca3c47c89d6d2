"""CONTRIBUTING does what it says: its blocks are run in order, and its contract tests with them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unisr.data.schema import Dataset

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
CHECK = """
assert 0.1 < ours.metrics["rec"]["NDCG@10"] < 1, "it learned"
html = table.to_html()
assert all(name in html for name in ("FISM", "SASRec", "Popularity"))
"""


@pytest.mark.usefixtures("movies")
def test_the_method_reaches_its_row_and_passes_the_contract(tmp_path: Path, movies: Dataset) -> None:
    code, contract = BLOCKS[:-1], BLOCKS[-1]
    assert "class FISM(Scorer)" in "".join(code) and "ScorerContract" in contract
    (tmp_path / "walk.py").write_text("\n".join([*code, CHECK]), encoding="utf-8")
    # The blocks that define the method stand where its module would be imported.
    (tmp_path / "test_fism.py").write_text("\n".join([*code[:2], contract]), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "UNISR_PROGRESS": "0"}
    for command in (["walk.py"], ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest", "test_fism.py"]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d\d passed", done.stdout)
