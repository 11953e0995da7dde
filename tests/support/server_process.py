"""A server program that tests start, pause, kill and start again; it never outlives the process that started it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from socket import SO_REUSEADDR, SOL_SOCKET, socket
from typing import Protocol, TypeVar

T = TypeVar("T")
PARENT = ThreadPoolExecutor(1, thread_name_prefix="parent-of-servers")
"""The kernel ends a server when the thread that started it ends: this one lives as long as the process."""
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class NotHere(Exception):
    """This way of getting a server is not open on this machine; the message says why."""


def program(name: str) -> str:
    """Where that program is; raises NotHere."""
    if found := shutil.which(name):
        return found
    raise NotHere(f"{name} is not installed")


def free_port(addresses: Sequence[str] = ("127.0.0.1",)) -> int:
    """A port that nobody has on any of those addresses, below those that the kernel gives to clients."""
    while True:
        port = SystemRandom().randrange(20_000, 32_000)
        with ExitStack() as sockets:
            try:
                for address in addresses:
                    each = sockets.enter_context(closing(socket()))
                    each.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
                    each.bind((address, port))
            except OSError:
                continue
            return port


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Come back when the condition holds; TimeoutError when it does not within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


class Server(Protocol):
    """A server program with its output. Calls may come from any thread, one at a time; kill and close may be repeated."""

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...
    def output(self) -> str: ...


def wait_ready(server: Server, answers: Callable[[], bool], seconds: float, what: str) -> None:
    """Come back when the server answers; raises NotHere when it ends by itself or does not within that time."""

    def ready() -> bool:
        if not server.running:
            raise NotHere(f"{what} ended by itself:\n{server.output()[-3000:]}")
        try:
            return answers()
        except OSError:
            return False

    try:
        wait_for(ready, seconds, what)
    except TimeoutError as late:
        raise NotHere(f"{late}:\n{server.output()[-3000:]}") from late


@contextmanager
def first_of(*ways: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """What the first open way gives; raises NotHere with the reasons of all where none is."""
    reasons: list[str] = []
    with ExitStack() as until_end:
        for way in ways:
            try:
                server = until_end.enter_context(way())
                break
            except NotHere as reason:
                reasons.append(str(reason))
        else:
            raise NotHere("; ".join(reasons))
        yield server


@dataclass
class ServerProcess:
    """A local process, with its log."""

    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the program; it need not be ready when this returns."""
        assert not self.running, f"{self.command[0]} runs already"
        bound = DIES_WITH_PARENT if shutil.which(DIES_WITH_PARENT[0]) else ()
        with self.log.open("ab") as log:
            self.process = PARENT.submit(
                subprocess.Popen, [*bound, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            ).result()  # fmt: skip

    def pause(self) -> None:
        """Stop it in its tracks: its connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a word, paused or not; nothing happens where it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None, f"{self.command[0]} does not run"
        self.process.send_signal(number)

    def close(self) -> None:
        """End it for good."""
        self.kill()

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""
