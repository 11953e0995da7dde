"""The folder of a mesh that ``discloud up`` runs on this machine: who is in it, its secrets, and whether it lives.

    secret  token   0600; the mesh's secret and the admin's token
    mesh.toml       the host and the containers with their ports: a later ``up`` keeps them
    nodeK/ nodeK.log  a container's data, and what it said
    lock  processes   the lock is held by ``up`` AND by every container, so that it is free only when none of them lives

Invariant: nothing is written before ``hold`` has the lock; no process is signalled unless the lock is held and the
process began when ``processes`` says (a number that another program got since is left alone).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from discloud.core.model import Role
from discloud.errors import Conflict, Invalid

STEP = 10
"""Between the ports of one container and those of the next."""
SUPERVISOR = "up"
"""The name of ``discloud up`` itself among the processes."""

OWN = frozenset({"lock", "secret", "token", "mesh", "processes"})
"""What an ``up`` that was cut short may have left in an otherwise empty folder."""


@dataclass(frozen=True, slots=True)
class Member:
    """One container: its HTTP API listens on ``port``, its peer protocol on ``port`` + 2."""

    name: str
    role: Role
    port: int

    @property
    def ports(self) -> tuple[int, int]:
        """Every port that it listens on."""
        return self.port, self.port + 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A mesh on this machine; the first member is its root."""

    host: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A process of the mesh that need not be our child. ``began`` tells it from a later one of the same number."""

    name: str
    pid: int
    began: str

    def poll(self) -> int | None:
        """None while it lives, as ``subprocess.Popen.poll``."""
        return None if self.began and began(self.pid) == self.began else 0

    def send_signal(self, number: int) -> None:
        """Signal it if it still is the same process."""
        if self.poll() is None:
            os.kill(self.pid, number)


def began(pid: int) -> str:
    """When the process of that number began, in the words of the system; "" = there is none (or only its remains)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        asked = subprocess.run(  # noqa: S603  a fixed program and a number
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return asked.stdout.strip()
    return "" if words[0] == "Z" else words[19]  # proc(5): state is field 3, starttime field 22


def make_plan(known: Plan | None, nodes: int | None, port: int | None, host: str | None) -> Plan:
    """What shall run: the known mesh with its ports, or what was asked for. More nodes than known join it.

    Raises: Invalid (fewer nodes than the mesh has, ports beyond 65535).
    """
    count = nodes or (len(known.members) if known else 3)
    if known and count < len(known.members):
        raise Invalid(
            f"this mesh has {len(known.members)} nodes, --nodes {count} would leave data behind",
            "leave --nodes away, or start another mesh with --dir",
        )
    kept = known.members if known and port is None else ()
    first = port or (kept[0].port if kept else 7070)
    last = max((each.port for each in kept), default=first - STEP)
    ports = [*(each.port for each in kept), *(last + STEP * (at + 1) for at in range(count - len(kept)))]
    if ports[-1] + STEP > 65535:
        raise Invalid(
            f"{count} nodes from port {first} on would need ports beyond 65535", "choose a lower --port"
        )
    members = (
        Member(f"node{at}", Role.ROOT if at == 1 else Role.ORDINARY, each)
        for at, each in enumerate(ports, start=1)
    )
    return Plan(host or (known.host if known else "127.0.0.1"), tuple(members))


class MeshFolder:
    """Reads and writes the files above. Used by one process at a time: whoever has the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secret = path / "secret"
        self.token = path / "token"

    def log(self, name: str) -> Path:
        """Where the container of that name says what it does."""
        return self.path / f"{name}.log"

    def known(self) -> Plan | None:
        """The mesh that lies here, None where the folder is empty or absent. Raises: Invalid (something else is here)."""
        try:
            text = (self.path / "mesh.toml").read_text("utf-8")
        except FileNotFoundError:
            if self.path.is_dir() and any(each.stem not in OWN for each in self.path.iterdir()):
                raise Invalid(
                    f"{self.path} holds other things than a mesh", "name another folder with --dir"
                ) from None
            return None
        except OSError as error:
            raise Invalid(
                f"cannot read {self.path}: {error.strerror}", "name another folder with --dir"
            ) from error
        return _parse(text, self.path)

    def lives(self) -> bool:
        """Whether a process of the mesh in this folder lives."""
        try:
            with (self.path / "lock").open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        return False

    def running(self) -> tuple[Running, ...]:
        """The processes of a mesh that lives, ``up`` itself first; empty while it is only about to start."""
        file = self.path / "processes"
        noted = json.loads(file.read_text("utf-8")) if file.exists() else {}
        found = (Running(name, pid, start) for name, (pid, start) in noted.items())
        return tuple(each for each in found if each.poll() is None)

    @contextmanager
    def hold(self) -> Iterator[int]:
        """The lock's descriptor, to be inherited by the containers. Makes the folder. Raises: Conflict (it lives already), Invalid."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Invalid(
                f"cannot make the folder {self.path}: {error.strerror}", "name another folder with --dir"
            ) from error
        with (self.path / "lock").open("w+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"the mesh in {self.path} is running already", "stop it with: discloud down"
                ) from error
            yield lock.fileno()

    def write(self, plan: Plan) -> None:
        """Keep the plan, and make secret and token unless they are there."""
        for file, value in (
            (self.secret, secrets.token_urlsafe(32)),
            (self.token, f"dc_{secrets.token_urlsafe(32)}"),
        ):
            if not file.exists():
                write_private(file, f"{value}\n")
        write_private(self.path / "mesh.toml", _render(plan))

    def note(self, processes: Mapping[str, int]) -> None:
        """Keep the processes by name, for ``discloud down``."""
        noted = {name: (pid, began(pid)) for name, pid in processes.items()}
        write_private(self.path / "processes", json.dumps(noted))


def write_private(file: Path, text: str) -> None:
    """Replace ``file`` as a whole; only its owner can read it, at every moment."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)


def _render(plan: Plan) -> str:
    lines = ["# Written by discloud up.", f'host = "{plan.host}"']
    for each in plan.members:
        lines += ["", "[[nodes]]", f'name = "{each.name}"', f'role = "{each.role}"', f"port = {each.port}"]
    return "\n".join(lines) + "\n"


def _parse(text: str, path: Path) -> Plan:
    try:
        table = tomllib.loads(text)
        members = tuple(
            Member(each["name"], Role(each["role"]), int(each["port"])) for each in table["nodes"]
        )
        return Plan(str(table["host"]), members)
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(
            f"{path / 'mesh.toml'} cannot be read: {error}", "mend it, or name another --dir"
        ) from error
