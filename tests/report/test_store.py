"""The run store: round trip, damage, replacement, and real processes killed in the middle of a save."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from tests.report.stored import COST, config, environment, losses, random_ranks, ranking, saved
from unisr.errors import StoreError
from unisr.evaluation.metrics import METRICS, summary
from unisr.report import store
from unisr.report.environment import Environment
from unisr.seals import SUMS


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


class Tied(nn.Module):
    """Two layers with one table, as in T5."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_round_trip(results: Path) -> None:
    run = saved([1, 2.5, 30], [4], seed=3)
    assert run.folder == results / "runs" / "synthetic" / "quick" / f"Popularity-s3-{config(seed=3).config_id}"
    assert run.config == config(seed=3)
    assert run.cost == COST and run.environment == environment()
    assert run.metrics == summary(ranking([1, 2.5, 30], [4])) and run.metrics["rec"]["tie_rate"] == pytest.approx(1 / 3)
    pd.testing.assert_frame_equal(run.per_query.drop(columns=list(METRICS)), ranking([1, 2.5, 30], [4]))
    pd.testing.assert_frame_equal(run.losses, losses())
    assert run.checkpoint is None
    assert store.find(config(seed=3)).folder == run.folder
    assert store.find(config(seed=4)) is None


def test_an_untrained_method_has_an_empty_log() -> None:
    run = store.save(config(), per_query=ranking([1]), losses=pd.DataFrame([]), cost=COST, environment=environment())
    assert len(run.losses) == 0


def test_weights_with_tied_tensors() -> None:
    torch.manual_seed(0)
    model, other = Tied(), Tied()
    run = saved([1], model=model)
    assert sorted(p.name for p in run.folder.iterdir()) == sorted([*store.FILES, store.WEIGHTS, SUMS])
    run.load_weights(other)
    x = torch.ones(1, 3)
    assert torch.equal(model.second(model.first(x)), other.second(other.first(x)))
    assert other.first.weight is other.second.weight
    with pytest.raises(StoreError, match=store.WEIGHTS):
        run.load_weights(nn.Linear(4, 4))
    run.checkpoint.unlink()
    assert store.load(run.folder).checkpoint is None, "weights are optional"
    with pytest.raises(StoreError, match="no weights are stored"):
        run.load_weights(other)


def test_environment_is_captured(world) -> None:
    from unisr.data.candidates import load_candidates

    candidates = load_candidates(world)
    found = Environment.capture(device="cpu", dataset=world, candidates=candidates)
    assert found.device == "cpu" and found.packages["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found.counts["#User"] == world.n_users and found.threads >= 1 and found.cpu and found.python
    assert len(found.dataset_hash) == len(found.candidates_hash) == 64
    assert Environment.capture(device="cpu", dataset=world, candidates=candidates) == found
    other = Environment.capture(device="cpu", dataset=world, candidates=load_candidates(world, "popularity"))
    assert other.dataset_hash == found.dataset_hash and other.candidates_hash != found.candidates_hash


def test_listing_filters_and_order() -> None:
    saved([1], seed=1)
    saved([1], seed=0)
    saved([1], method="Lexical")
    saved([1], method="SASRec", preset="small", max_users=50)
    assert [(r.config.method, r.config.seed) for r in store.runs()] == [
        ("Popularity", 0), ("Popularity", 1), ("Lexical", 0), ("SASRec", 0)
    ]
    assert [r.config.method for r in store.runs(preset="small")] == ["SASRec"]
    assert len(store.runs(method="popularity")) == 2
    assert store.runs(dataset="ml-100k") == []


def test_listing_ignores_what_is_no_run(results: Path) -> None:
    run = saved([1])
    shutil.copytree(run.folder, run.folder.with_name(run.folder.name + ".partial"))
    shutil.copytree(run.folder, run.folder.with_name(f".{run.folder.name}.0a1b2c3d.tmp"))
    (run.folder.parent / "notes.txt").write_text("mine")
    assert [r.folder for r in store.runs()] == [run.folder]
    with pytest.raises(StoreError, match="not a run folder"):
        store.load(run.folder.with_name(run.folder.name + ".partial"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGE = {
    "per_query.parquet": cut,
    "losses.parquet": cut,
    "model.safetensors": cut,
    "metrics.json": cut,
    "environment.json": lambda path: edit(path, lambda v: v.update(unknown=1)),
    "config.json": lambda path: edit(path, lambda v: v["config"].update(seed=9)),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_names_file_and_remedy(name: str) -> None:
    run = saved([1, 2, 3], model=Tied())
    DAMAGE[name](run.folder / name)
    with pytest.raises(StoreError, match=rf"{name}.*(delete the folder|overwrite)"):
        store.load(run.folder)
    with pytest.raises(StoreError, match=name):
        store.find(config())
    with pytest.warns(UserWarning, match=f"run left out.*{name}"):
        assert store.runs() == []


@pytest.mark.parametrize("name", store.FILES)
def test_missing_file(name: str) -> None:
    run = saved([1])
    (run.folder / name).unlink()
    with pytest.raises(StoreError, match=rf"lacks {name}; delete the folder"):
        store.load(run.folder)


def test_no_flipped_byte_of_the_table_changes_it_unnoticed() -> None:
    """By its own checksums, as in folders of older versions, which have no seal."""
    run = saved(random_ranks(30))
    (run.folder / SUMS).unlink()
    path, expected = run.folder / "per_query.parquet", run.per_query
    whole, refused = path.read_bytes(), 0
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, pages, 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert store.load(run.folder).per_query.equals(expected), f"byte {place}"
        except StoreError as error:
            assert "per_query.parquet" in str(error) and "delete the folder" in str(error)
            refused += 1
    assert refused > 0.8 * pages / 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["config"].update(method="Popularitee"), "unknown method"),
        (lambda v: v["config"].update(colour="red"), "colour"),
        (lambda v: v.pop("config"), "config.json"),
        (lambda v: v.update(method_version=0), "version 0; the code has .* run it again"),
        (lambda v: v["config"]["training"].update(negatives=77), "edited or moved"),
    ],
)
def test_tampered_config(change, message: str) -> None:
    run = saved([1])
    edit(run.folder / "config.json", change)
    with pytest.raises(StoreError, match=message):
        store.load(run.folder)


def test_renamed_folder_is_refused() -> None:
    run = saved([1])
    moved = run.folder.with_name(run.folder.name.replace("-s0-", "-s5-"))
    run.folder.rename(moved)
    with pytest.raises(StoreError, match="edited or moved"):
        store.load(moved)


def test_a_later_save_replaces_the_whole_folder() -> None:
    saved([1], model=Tied())
    run = saved([9])
    assert run.metrics["rec"]["MRR"] == pytest.approx(1 / 9)
    assert run.checkpoint is None, "no file of the older run stays"
    assert len(list(run.folder.parent.iterdir())) == 1


def test_a_failing_save_leaves_the_older_run_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved([1])
    monkeypatch.setattr(store, "save_model", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        saved([9], model=Tied())
    assert store.load(run.folder).metrics["rec"]["MRR"] == 1
    assert list(run.folder.parent.iterdir()) == [run.folder]


def test_unfit_per_query_table() -> None:
    for table, message in ((ranking([1]).drop(columns="ties"), "ties"), (ranking([1])[:0], "rows")):
        with pytest.raises(StoreError, match=f"lacks {message}"):
            store.save(config(), per_query=table, losses=losses(), cost=COST, environment=environment())


def test_the_name_never_shows_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every rename of a save, and when another writer takes the name in between, the folder is whole or absent."""
    rename, final = os.rename, saved([1], model=Tied()).folder
    other = final.with_name("other")
    shutil.copytree(final, other)
    states = []

    def watched(source: Path, target: Path) -> None:
        states.append(final.exists() and store.load(final).metrics["rec"]["MRR"])
        if target == final and other.exists():
            rename(other, final)
        rename(source, target)
        states.append(final.exists() and store.load(final).metrics["rec"]["MRR"])

    monkeypatch.setattr(os, "rename", watched)
    run = saved([4])
    assert states == [1, False, False, 1, False, False, 0.25], "the other writer's is put away too, then ours is there"
    assert run.metrics["rec"]["MRR"] == 0.25 and run.checkpoint is None
    assert list(final.parent.iterdir()) == [final]


def test_sweeps_old_hidden_folders_only() -> None:
    run = saved([1])
    old, young = (run.folder.with_name(f".{run.folder.name}.{n}.tmp") for n in ("old", "young"))
    for path in (old, young):
        path.mkdir()
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    saved([1], seed=1)
    assert not old.exists() and young.exists()


TEMPLATE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tests.report.stored import COST, config, environment, losses, ranking
from torch import nn
from unisr import registry
from unisr.report import store

# Before any fork: each would import all methods by itself, which takes longer than a save.
registry.methods()
settings = config()

def write(number, step):
    for _ in range(1000):  # an end, should the test itself be killed
        cost = COST.model_copy(update={"steps": number})
        store.save(settings, per_query=ranking([number] * 50), losses=losses(number), cost=cost,
                   environment=environment(cpu=str(number)), model=nn.Linear(number, 1))
        number += step
    os._exit(0)

for line in sys.stdin:
    command, first, step = line.split()
    if command == "wait":
        os.waitpid(int(first), 0)
        print("done", flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        write(int(first), int(step))
"""


class Writers:
    """Forks processes that save one run over and over, each time with another number in every file."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", TEMPLATE, str(Path(__file__).parents[2])]
        self.template = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.alive: set[int] = set()

    def _ask(self, *words: object) -> str:
        print(*words, file=self.template.stdin, flush=True)
        return self.template.stdout.readline()

    def start(self, first: int, step: int) -> int:
        """A process that writes the numbers first, first + step, …; its id."""
        process = int(self._ask("write", first, step))
        self.alive.add(process)
        return process

    def kill(self, process: int) -> None:
        """Kill it as a power cut would, and wait until it is gone."""
        os.kill(process, signal.SIGKILL)
        assert self._ask("wait", process, 0) == "done\n"
        self.alive.remove(process)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in list(self.alive):
            self.kill(process)
        self.template.communicate()


def numbers_in(run: store.Run) -> set[int]:
    """The numbers its files carry: one, unless files of two saves were mixed."""
    weights = store.safe_open(run.checkpoint, "pt")
    return {int(run.environment.cpu), run.cost.steps, len(run.losses), *map(int, run.per_query["rank"].unique()),
            weights.get_tensor("weight").shape[1]}


def test_killed_or_racing_saves_leave_whole_folders(results: Path) -> None:
    folder = store.folder_of(config())
    seen = set()
    with Writers() as writers:
        for kill in count():
            if kill >= 16 and len(seen) > 1:
                break
            assert kill < 24, "several saves were completed"
            processes = [writers.start(1, 2), writers.start(2, 2)] if kill % 2 else [writers.start(1, 1)]
            # A busy machine needs longer for a save than a quiet one; later kills wait until some were completed.
            time.sleep(0.05 + 0.0137 * kill if kill < 16 else 0.5 * 1.6 ** (kill - 16))
            for process in processes:
                writers.kill(process)
            if folder.exists():
                found = numbers_in(store.load(folder))
                assert len(found) == 1, f"files of several saves: {found}"
                seen |= found
    assert {p.name for p in folder.parent.iterdir() if not p.name.endswith(".tmp")} <= {folder.name}
    assert [r.folder for r in store.runs()] == ([folder] if folder.exists() else [])
    for path in folder.parent.glob(".*.tmp"):
        os.utime(path, (0, 0))
    saved([1])
    assert list(folder.parent.iterdir()) == [folder], "remains are swept by the next save"
