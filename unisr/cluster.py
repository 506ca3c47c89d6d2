"""Jobs on the machines of a Dask cluster, whose workers start a process for each (`unisr.job_process`).

Every worker must have the client's code and packages and see its folders of data and results under the same paths:
runs are stored by the workers, and the locks and checkpoints in these folders are what makes a run asked for twice be
trained once and one whose worker dies be gone on with elsewhere.

This is `concurrent.futures` by way of `distributed`, and not joblib's Dask backend: `joblib.Parallel` knows no jobs
that need others, works in the client where a cluster has one slot, and never returns when a job fails whose workers
died.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from unisr.errors import UnisrError
from unisr.job_process import Processes
from unisr.lock import exclusive, locked
from unisr.paths import data_dir, results_dir

if TYPE_CHECKING:
    from distributed import Client

ANSWER = 10.0
"""Seconds in which a scheduler must answer and have a worker."""
LOST = "the cluster's scheduler is gone; start it again, and this command: what is stored is kept"
REMEDY = "start its workers with the client's code and packages, and with its data and results under the same paths"


class ClusterError(UnisrError):
    """A cluster that is not there, or whose workers cannot stand in for this machine."""


@dataclass(frozen=True)
class World:
    """What a worker needs of the client."""

    versions: dict[str, str]
    """Of Python, of packages, and of the code."""
    markers: tuple[str, ...]
    """Files in the client's folders, which it holds locks on."""
    environment: dict[str, str]
    """Variables of unisr."""


class Cluster:
    """The workers of a Dask scheduler as `unisr.jobs.Hosts`."""

    def __init__(self, client: Client, world: World) -> None:
        self._client, self._world = client, world
        # Not pure: the same job asked for again is done again.
        self._executor = client.get_executor(pure=False)

    def slots(self) -> int:
        """Threads of all workers; those that come and go are counted each time."""
        return sum(self._client.nthreads().values()) if self._client.status == "running" else 0

    def submit(self, function: str, payload: Any) -> Future[str]:
        told: Future[str] = Future()
        if self._client.status != "running":
            told.set_exception(ClusterError(LOST))
            return told
        self._executor.submit(worked, self._world, function, payload).add_done_callback(partial(_tell, told))
        return told


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """The cluster of the scheduler at `address`, after a look at all its workers.

    Raises:
        ClusterError: nobody answers, there is no worker, or one cannot work for this machine; names it and the remedy.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError("a cluster needs the package distributed: pip install -c constraints.txt -e .[cluster]"
                           ) from error  # fmt: skip
    with ExitStack() as stack:
        try:
            client = stack.enter_context(Client(address, timeout=ANSWER, set_as_default=False))
            client.wait_for_workers(1, timeout=ANSWER)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"cluster {address}: no scheduler with a worker answers ({error}); start them with "
                "`dask scheduler` and `dask worker ADDRESS`, and give the address that the scheduler prints"
            ) from error
        markers = [folder / f".cluster-{uuid4().hex}.lock" for folder in (results_dir(), data_dir())]
        for marker in markers:
            stack.enter_context(exclusive(marker))
        world = World(versions(), tuple(map(str, markers)), _environment())
        for worker, problem in client.run(unfit, world, on_error="return").items():
            if problem:
                raise ClusterError(f"cluster {address}: worker {worker}: {problem}; {REMEDY}")
        yield Cluster(client, world)


def _tell(told: Future[str], done: Future[str]) -> None:
    """Hand on how a job ended, in words for a reader."""
    if done.cancelled():
        told.set_exception(ClusterError(LOST))
    elif error := done.exception():
        told.set_exception(error if isinstance(error, UnisrError) else ClusterError(f"{error}"))
    else:
        told.set_result(done.result())


def worked(world: World, function: str, payload: Any) -> str:
    """One job, on a worker, in a process that ends with it."""
    if problem := unfit(world):
        raise ClusterError(f"a worker on {platform.node()}: {problem}; {REMEDY}")
    with Processes(environment=world.environment) as process:
        return process.submit(function, payload).result()


def unfit(world: World) -> str:
    """Why this machine cannot work for the client; empty where it can."""
    here = versions()
    if other := [f"{k} {here.get(k, 'none')} instead of {v}" for k, v in world.versions.items() if here.get(k) != v]:
        return f"has {', '.join(other)}"
    return next(filter(None, map(_unshared, map(Path, world.markers))), "")


def versions() -> dict[str, str]:
    """Versions that decide a run's numbers."""
    from unisr.report.environment import Environment
    from unisr.training.checkpoint import code_version

    made = Environment.of_machine()
    return {"python": made.python, **made.packages, "code": code_version()}


def _unshared(marker: Path) -> str:
    """Why the folder of a file that the client has locked is not the client's folder; empty where it is."""
    if not marker.exists():
        return f"{marker.parent} is not the client's folder of that name"
    try:
        with tempfile.TemporaryFile(dir=marker.parent):
            pass
    except OSError as error:
        return f"cannot write into {marker.parent} ({error.strerror})"
    return "" if locked(marker) else f"does not see the client's locks in {marker.parent} (mount it with locks)"


def _environment() -> dict[str, str]:
    """This process's variables of unisr, with the folders spelled out."""
    own = {name: value for name, value in os.environ.items() if name.startswith("UNISR_") and name != "UNISR_HOME"}
    return {**own, "UNISR_DATA": str(data_dir()), "UNISR_RESULTS": str(results_dir())}
