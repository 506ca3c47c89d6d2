"""Hostile files run nothing and fill nothing; no secret is stored; servers listen on the loopback address only."""

from __future__ import annotations

import ast
import gzip
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import unisr
from tests.faults.commands import COMMANDS
from tests.faults.forks import Forks
from unisr.data import download
from unisr.data.raw import Malformed, blocks
from unisr.data.sources import office
from unisr.errors import DataError

PACKAGE = Path(unisr.__file__).parent
ROOT = PACKAGE.parent
SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwxyz0123456789", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYKEY",
    "UNISR_PASSWORD": "correct-horse-battery", "PIP_INDEX_URL": "https://someone:hunter2secret@index.example/simple",
}  # fmt: skip


def member(name: str, *, mode: int = 0o644, content: bytes = b"rows") -> Callable[[zipfile.ZipFile], None]:
    """Writes a member of an archive."""

    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(info, content)

    return write


HOSTILE = {
    "a parent path": (member("../u.data"), "leaves its folder"),
    "a parent path inside": (member("a/../../u.data"), "leaves its folder"),
    "an absolute path": (member("/tmp/u.data"), "leaves its folder"),
    "a path of Windows": (member("..\\u.data"), "leaves its folder"),
    "a drive": (member("C:u.data"), "leaves its folder"),
    "a link": (member("b", mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd"), "is a link"),
    "an expansion": (member("b", content=bytes(10_000_000)), "times as large"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_whole(tmp_path: Path, case: str) -> None:
    add, message = HOSTILE[case]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member("u.data")(archive)
        add(archive)
    with pytest.raises(DataError, match=message):
        download.extract(tmp_path / "a.zip", {"u.data": None}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_archive_is_refused(tmp_path: Path, seed: int) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        member("u.data", content=bytes(range(256)) * 4)(archive)
    whole = (tmp_path / "whole.zip").read_bytes()
    for place in range(seed, len(whole), 3):
        (tmp_path / "a.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            download.extract(tmp_path / "a.zip", {"u.data": None}, tmp_path / "out")
            assert (tmp_path / "out" / "u.data").read_bytes() == bytes(range(256)) * 4, f"byte {place}"
        except DataError as error:
            assert "a.zip" in str(error)


def test_a_gzip_file_that_expands_a_thousandfold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(bytes(20_000_000)))
    with pytest.raises(DataError, match="times as large"):
        list(blocks(Malformed(path)))
    with pytest.raises(DataError, match="times as large"):
        office._entries(path)


FORBIDDEN = re.compile(
    r"pickle\.loads?\b|\bread_pickle\b|allow_pickle=True|\bjoblib\.load\b|\bdill\b|\bmarshal\.loads?\b|\bshelve\b|"
    r"\byaml\.(?:unsafe_)?load\b|\bextractall\b|\btarfile\b|trust_remote_code=True"
)


def test_no_module_loads_pickles_or_unpacks_archives_whole() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not (found := FORBIDDEN.search(path.read_text(encoding="utf-8"))), f"{path}: {found}"


def test_every_torch_load_reads_weights_only_and_every_model_safetensors() -> None:
    calls = [(path, node) for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]  # fmt: skip
    loads = [(path, call) for path, call in calls if ast.unparse(call.func) == "torch.load"]
    assert loads, "the search finds what it looks for"
    for path, call in loads:
        assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords), path
    assert not [path for path, call in calls if ast.unparse(call.func) in ("eval", "exec", "os.system")]
    assert not [path for path, call in calls for k in call.keywords if k.arg == "shell"]


def test_no_secret_of_the_environment_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with Forks() as forks:
        ending = forks.run(COMMANDS["run"], tmp_path)
    assert ending.code == 0, ending.errors
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "environment.json" in {path.name for path in files}
    for text in (*SECRETS, *SECRETS.values(), "hunter2secret"):
        assert not [path for path in files if text.encode() in path.read_bytes()], text
        assert text not in ending.out + ending.errors


def test_servers_listen_on_the_loopback_address() -> None:
    """All that names an address to listen at: the browser test's JupyterLab, and a Dask scheduler in tests."""
    asked = re.compile(r"--ip=(\S+?)[\"' ]|\.bind\(\(([^,]+),|\bhost=([^,)]+)|--host[= ]([^\"' ]+)")
    found = {}
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *ROOT.glob("Makefile")):
        if path.name != Path(__file__).name:
            for match in asked.finditer(path.read_text(encoding="utf-8")):
                found[path.name, match[0]] = next(filter(None, match.groups())).strip("\"'")
    assert found, "the search finds what it looks for"
    assert all(address in ("127.0.0.1", "localhost", "::1") for address in found.values()), found
