"""One Cassandra for all test processes of this checkout: whoever needs it first starts a keeper, the last to end ends it.

A user holds a shared lock on ``users`` as long as it lives; the keeper (``python -m tests.support.keeper``, a session of its own)
ends with its servers as soon as nobody does. Locks go with their process, so a killed run leaves nothing behind; servers go with
the keeper (tests/support/server_process.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from tests.support.cassandra_server import PrivateCassandra, cache, cassandra_server, locked
from tests.support.server_process import NotHere, wait_for

ROOT = Path(__file__).parents[2]
_USED = ExitStack()
"""This process's use of the cluster, which ends with it."""


def folder() -> Path:
    """What the processes of this checkout share."""
    shared = cache() / f"shared-{sha256(str(ROOT).encode()).hexdigest()[:12]}"
    shared.mkdir(exist_ok=True)
    return shared


def shared_hosts() -> tuple[str, ...]:
    """The nodes of the shared cluster, which runs as long as this process; raises NotHere."""
    _USED.enter_context(used())
    state = folder() / "state.json"
    with locked(folder() / "lock"):
        if not _keeper_lives():
            state.unlink(missing_ok=True)
            keeper = _start_keeper()
            wait_for(lambda: state.exists() or _ended(keeper), 600, "an answer of the keeper of Cassandra")
        found: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    if "hosts" not in found:
        raise NotHere(found.get("why") or f"its keeper failed: {(folder() / 'log').read_text()[-2000:]}")
    return tuple(found["hosts"])


@contextmanager
def used() -> Iterator[None]:
    """No keeper ends meanwhile; waits for one that is just ending."""
    with locked(folder() / "users", fcntl.LOCK_SH):
        yield


def leave() -> None:
    """This process needs the cluster no longer."""
    _USED.close()


def _keeper_lives() -> bool:
    with (folder() / "keeper").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _start_keeper() -> int:
    log = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        sys.executable, [sys.executable, "-m", "tests.support.keeper"], {**os.environ, "PYTHONPATH": str(ROOT)},
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(folder() / "log"), log, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )  # fmt: skip


def _ended(keeper: int) -> bool:
    return os.waitpid(keeper, os.WNOHANG)[0] != 0


def keep(cassandra: Callable[[], AbstractContextManager[PrivateCassandra]]) -> None:
    """Start the cluster, tell where it is, and end with its last user, or when a node died."""
    state, users = folder() / "state.json", folder() / "users"
    with users.open("w") as file, locked(folder() / "keeper"):
        try:
            with cassandra() as cluster:
                _tell(state, {"hosts": cluster.hosts})
                while not _unused(file) and all(node.running for node in cluster.nodes):
                    time.sleep(0.3)
                state.unlink()
        except NotHere as reason:
            _tell(state, {"why": str(reason)})


def _tell(state: Path, what: dict[str, Any]) -> None:
    half = state.with_suffix(".half")
    half.write_text(json.dumps(what))
    half.rename(state)


def _unused(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    keep(lambda: cassandra_server(lasting=False))
