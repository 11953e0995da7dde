"""The containers of ``discloud up`` as processes: start, wait until they serve, notice that one died, stop.

Invariant: whatever ``Containers`` started is stopped when it is left, unless it was released (``--detach``).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from discloud.cli.mesh_folder import Member, MeshFolder, Plan
from discloud.config import settings
from discloud.core.model import Role
from discloud.errors import Conflict, Unavailable

START = 60.0
"""Seconds in which a container must serve."""
STOP = 20.0
"""Seconds in which a container must stop before it is killed."""
LOOK = 0.05
"""Seconds between two looks at what is waited for."""


class Handle(Protocol):
    """A process, ours or another's."""

    def poll(self) -> int | None:
        """None while it lives."""

    def send_signal(self, number: int, /) -> None:
        """Signal it, if it lives."""


def program() -> list[str]:
    """The command that runs discloud as this process does."""
    installed = Path(sys.executable).with_name("discloud")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "discloud.cli.main"]


class Containers:
    """The processes of a plan, each in a process group of its own: Ctrl-C reaches ``up`` alone, which stops them in order."""

    def __init__(self, folder: MeshFolder, plan: Plan, lock: int, *, detach: bool = False) -> None:
        self._folder, self._plan, self._lock, self._detach = folder, plan, lock, detach
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, member: Member) -> None:
        """Start the container of ``member``; its output goes to its log."""
        environ = child_environ(os.environ)
        if member.role is Role.ROOT:
            environ["DISCLOUD_TOKEN_FILE"] = str(self._folder.token)
        with self._folder.log(member.name).open("ab") as log:
            self._processes[member.name] = subprocess.Popen(  # noqa: S603  our own program
                [*program(), "node", *self._flags(member)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock,),
                start_new_session=self._detach,
                process_group=None if self._detach else 0,
            )
        self._folder.note(self.pids)

    def _flags(self, member: Member) -> list[str]:
        flags = {
            "--name": member.name,
            "--role": str(member.role),
            "--data": str(self._folder.path / member.name),
            "--listen": self._plan.host,
            "--port": str(member.port),
            "--secret-file": str(self._folder.secret),
        }
        reached = reachable(self._plan.host)
        if reached != self._plan.host:
            flags["--advertise"] = reached
        if member.role is Role.ORDINARY:
            flags["--roots"] = ",".join(
                authority(reached, each.port + 2) for each in self._plan.members if each.role is Role.ROOT
            )
        return [word for pair in flags.items() for word in pair]

    @property
    def pids(self) -> dict[str, int]:
        """Process numbers by name, ``up`` itself first unless the containers outlive it."""
        own = {} if self._detach else {"up": os.getpid()}
        return own | {name: process.pid for name, process in self._processes.items()}

    def wait(
        self,
        members: Iterable[Member],
        ready: Callable[[Member], bool],
        tell: Callable[[Sequence[Member]], None],
    ) -> None:
        """Return when ``ready`` of all members; ``tell`` hears of those not ready yet.

        Raises: Unavailable (one of our processes died, or took longer than ``START`` seconds).
        """
        waiting, until = list(members), time.monotonic() + START
        while waiting:
            for name, code in self.reap():
                raise Unavailable(self.obituary(name, code))
            if time.monotonic() > until:
                name = waiting[0].name
                raise Unavailable(
                    f"{name} does not serve after {START:.0f} s", f"see {self._folder.log(name)}"
                )
            waiting = [each for each in waiting if not ready(each)]
            tell(waiting)
            time.sleep(LOOK)

    def reap(self) -> list[tuple[str, int]]:
        """The containers that died since the last look, with their exit codes."""
        dead = [(name, code) for name, each in self._processes.items() if (code := each.poll()) is not None]
        for name, _ in dead:
            del self._processes[name]
        return dead

    def obituary(self, name: str, code: int) -> str:
        """One line about a container that died: how, its last words, and where the rest is."""
        log = self._folder.log(name)
        if code < 0:
            return f"{name} was ended by {signal.Signals(-code).name} (log: {log})"
        return f"{name} ended with exit code {code}: {last_line(log)} (log: {log})"

    @property
    def count(self) -> int:
        """How many live, as of the last ``reap``."""
        return len(self._processes)

    def release(self) -> None:
        """Let the containers live on without us."""
        self._processes.clear()

    def stop(self) -> None:
        """Stop ordinary containers first and roots last; returns when none of them lives. A second Ctrl-C kills them."""
        roots = {each.name for each in self._plan.members if each.role is Role.ROOT}
        try:
            stop_in_order(self._processes, roots)
        except KeyboardInterrupt:
            for process in self._processes.values():
                process.kill()
                process.wait()
        self._processes.clear()


def stop_in_order(handles: Mapping[str, Handle], last: Iterable[str]) -> None:
    """Stop those not in ``last``, then the others: each is asked, and killed when it does not end in ``STOP`` seconds."""
    final = set(last)
    for wave in ({name for name in handles if name not in final}, final & set(handles)):
        _stop([handles[name] for name in wave])


def _stop(handles: Sequence[Handle]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in handles:
            if each.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    each.send_signal(number)
        wait_until(lambda: all(each.poll() is not None for each in handles), STOP)


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether ``holds`` within that time."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK)
    return True


OWN = frozenset({"node", "tls", "redis", "cassandra"})
"""Sections that say who a container is and where its mesh lives: `up` decides that."""


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container: who and where it is comes from flags alone, limits and periods pass through."""
    own = {each.variable for each in settings().values() if each.section in OWN}
    return {name: value for name, value in environ.items() if name not in own} | {"PYTHONUNBUFFERED": "1"}


def last_line(log: Path) -> str:
    """The last line that a container wrote."""
    with log.open("rb") as lines:
        lines.seek(max(0, log.stat().st_size - 4096))
        written = lines.read().decode("utf-8", "replace").splitlines()
    return written[-1][:300] if written else "it said nothing"


def check_ports(plan: Plan) -> None:
    """Raises: Conflict, when a port that the plan needs is taken or may not be used."""
    for member in plan.members:
        for port in member.ports:
            _check_port(plan, port)


def _check_port(plan: Plan, port: int) -> None:
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((plan.host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = plan.members[0].port + 100
            raise Conflict(f"port {port} is taken", f"choose others, such as --port {free}") from error
        raise Conflict(
            f"cannot listen on {authority(plan.host, port)}: {error.strerror}",
            "choose another --host or --port",
        ) from error


def reachable(host: str) -> str:
    """``host`` as others reach it: for "every interface" the address that this machine's own traffic leaves from."""
    if host not in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        return host
    family, beyond = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((beyond, 9))  # documentation addresses: the route is looked up, nothing is sent
            return str(probe.getsockname()[0])
    except OSError:
        return "::1" if ":" in host else "127.0.0.1"


def authority(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ask(
    host: str, port: int, method: str, path: str, *, token: str = "", body: str | None = None
) -> tuple[int, bytes]:
    """Status and body of one HTTP request; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
