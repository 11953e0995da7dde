"""``discloud up`` and ``down``: a whole mesh on this machine as one command.

Every container is a process ``discloud node``; ``up`` starts them, waits until they serve, makes the bucket ``files``,
writes the profile that the other commands use, and stops them again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import click

from discloud.cli.mesh_folder import SUPERVISOR, Member, MeshFolder, Plan, make_plan, write_private
from discloud.cli.node import warn_beyond_loopback
from discloud.cli.output import say_error, say_warning, table, told
from discloud.cli.processes import (
    STOP,
    Containers,
    ask,
    authority,
    check_ports,
    program,
    reachable,
    stop_in_order,
    wait_until,
)
from discloud.config import home
from discloud.core.model import NodeState, Role
from discloud.errors import Conflict, Invalid, NotFound, Unavailable

BUCKET = "files"
"""The bucket that a fresh mesh has."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What tells ``up`` to stop the mesh."""

folder_option = click.option(
    "--dir", "path", metavar="DIR", type=Path, help="The mesh's folder; $DISCLOUD_HOME/mesh unless given."
)


@click.command()
@click.option("--nodes", metavar="N", type=click.IntRange(1, 64), help="How many containers; 3 unless given.")
@folder_option
@click.option(
    "--port",
    metavar="P",
    type=click.IntRange(1, 65535),
    help="First port; 7070 unless given. Each container takes the next ten.",
)
@click.option("--host", metavar="HOST", help="Address to listen on; 127.0.0.1 unless given.")
@click.option("--detach", is_flag=True, help="Return when it is ready and leave it running.")
def up(nodes: int | None, path: Path | None, port: int | None, host: str | None, detach: bool) -> None:
    """Run a whole mesh on this machine: one root and N-1 ordinary containers.

    Stop it with Ctrl-C or "discloud down"; the next "discloud up" goes on with the data.

    \b
    Examples:
      discloud up
      discloud up --nodes 6 --port 8000 --dir ./mesh --detach
    """
    folder = _folder(path)
    if folder.lives():
        raise Conflict(
            f"the mesh in {folder.path} is running already",
            f"stop it with: {command('down', *where(folder))}",
        )
    try:
        plan = make_plan(folder.known(), nodes, port, host)
    except Invalid as error:
        raise click.UsageError(told(error)) from error
    check_ports(plan)
    warn_beyond_loopback(plan.host, plan.members[0].port)
    with _signals_as_interrupts(), folder.hold() as lock:
        folder.write(plan)
        with Containers(folder, plan, lock, detach=detach) as containers:
            _run(folder, plan, containers, detach=detach)


@click.command()
@folder_option
def down(path: Path | None) -> None:
    """Stop the mesh that "discloud up" runs on this machine; its data stay.

    \b
    Examples:
      discloud down
      discloud down --dir ./mesh
    """
    folder = _folder(path)
    known = folder.known()
    if known is None:
        raise NotFound(f"there is no mesh in {folder.path}", "name its folder with --dir")
    if not folder.lives():
        click.echo(f"the mesh in {folder.path} is not running")
        return
    _stop_running(folder, {each.name for each in known.members if each.role is Role.ROOT})
    click.echo(f"stopped; go on with: {command('up', *where(folder))}")


def _folder(path: Path | None) -> MeshFolder:
    return MeshFolder((path or home(os.environ) / "mesh").expanduser().absolute())


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Until we are left, SIGTERM and SIGHUP end the work in hand as Ctrl-C does."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(folder: MeshFolder, plan: Plan, containers: Containers, *, detach: bool) -> None:
    """From the start to the moment it shall stop. Raises: Unavailable, KeyboardInterrupt (while it starts)."""
    token = folder.token.read_text("utf-8").strip()
    _start(containers, plan, token)
    _make_bucket(plan, token)
    _write_profile(folder, plan)
    with _signals_waiting() as awaited:
        _say_ready(folder, plan, detach=detach)
        if detach:
            containers.release()
        else:
            _watch(containers, awaited)


def _start(containers: Containers, plan: Plan, token: str) -> None:
    """The root first: the others join by it. Returns when each of them sees all of them. Raises: Unavailable."""
    host, names = reachable(plan.host), {each.name for each in plan.members}

    def serves(member: Member) -> bool:
        return ask(host, member.port, "GET", "/readyz")[0] == 200

    def sees_all(member: Member) -> bool:
        status, body = ask(host, member.port, "GET", "/v1/nodes", token=token)
        return status == 200 and names <= {
            each["name"] for each in json.loads(body)["nodes"] if each["state"] == NodeState.ALIVE
        }

    with _spinner() as spin:
        for role in (Role.ROOT, Role.ORDINARY):
            wave = [each for each in plan.members if each.role is role]
            for member in wave:
                containers.start(member)
            containers.wait(wave, serves, spin)
        containers.wait(plan.members, sees_all, spin)


@contextmanager
def _spinner() -> Iterator[Callable[[Sequence[Member]], None]]:
    """A line on the terminal that moves and names what is waited for; silent elsewhere."""
    frames = cycle("|/-\\")

    def spin(waiting: Sequence[Member]) -> None:
        if sys.stderr.isatty() and waiting:
            names = " ".join(each.name for each in waiting)
            click.echo(f"\r\x1b[K{next(frames)} starting {names}"[:79], err=True, nl=False)

    try:
        yield spin
    finally:
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)


def _make_bucket(plan: Plan, token: str) -> None:
    """The first bucket; one that is there is fine. Raises: Unavailable."""
    root = plan.members[0]
    status, _ = ask(reachable(plan.host), root.port, "PUT", f"/v1/buckets/{BUCKET}", token=token, body="{}")
    if status not in {200, 201, 409}:
        raise Unavailable(f"{root.name} answers {status} to the making of bucket {BUCKET!r}", "see its log")


def _write_profile(folder: MeshFolder, plan: Plan) -> None:
    """Let the other commands talk to this mesh; a profile of another mesh is put aside, it may hold the only token."""
    file = home(os.environ) / "profile.toml"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = folder.token.read_text("utf-8").strip()
    nodes = [authority(reachable(plan.host), each.port) for each in plan.members]
    lines = [
        "# Written by discloud up.",
        f'url = "http://{nodes[0]}"',
        f'token = "{token}"',
        f"nodes = {json.dumps(nodes)}",
    ]
    if file.exists() and token not in file.read_text("utf-8", "replace"):
        file.replace(file.with_name("profile.toml.old"))
        say_warning(f"the profile of another mesh was kept as {file}.old")
    write_private(file, "\n".join(lines) + "\n")


def _say_ready(folder: MeshFolder, plan: Plan, *, detach: bool) -> None:
    host, token = reachable(plan.host), folder.token.read_text("utf-8").strip()
    other = authority(host, plan.members[-1].port)
    table([[each.name, str(each.role), f"http://{authority(host, each.port)}"] for each in plan.members])
    click.echo(f"""
data   {folder.path} (logs: nodeK.log)
token  {token}

Paste into another terminal:
  echo hello | {command("put", "-", f"{BUCKET}/hello.txt")}
  {command("map", f"{BUCKET}/hello.txt")}
  curl -H 'Authorization: Bearer {token}' http://{other}/v1/files/{BUCKET}/hello.txt

stop   {"" if detach else "Ctrl-C, or: "}{command("down", *where(folder))}
go on  {command("up", *where(folder))}
erase  {command("down", *where(folder))} && rm -r {shlex.quote(str(folder.path))}""")
    sys.stdout.flush()


def command(*words: str) -> str:
    """A line to paste that runs this very discloud with these words, also where it is not on the PATH."""
    own = program()
    found = shutil.which("discloud")
    shown = ["discloud"] if found and Path(found).resolve() == Path(own[0]).resolve() else own
    moved = os.environ.get("DISCLOUD_HOME")
    before = f"DISCLOUD_HOME={shlex.quote(str(home(os.environ)))} " if moved else ""
    return before + shlex.join([*shown, *words])


def where(folder: MeshFolder) -> list[str]:
    """The flag that names ``folder``, unless it is the usual one."""
    return [] if folder.path == home(os.environ) / "mesh" else ["--dir", str(folder.path)]


@contextmanager
def _signals_waiting() -> Iterator[set[signal.Signals]]:
    """The signals that wait for ``sigwait`` here, instead of breaking into what runs."""
    awaited = {*SIGNALS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        yield awaited
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)


def _watch(containers: Containers, awaited: set[signal.Signals]) -> None:
    """Report every container that dies, until a signal says stop. Raises: Unavailable (none is left)."""
    while True:
        for name, code in containers.reap():
            say_error(f"{containers.obituary(name, code)}. It is not restarted; the others go on")
        if not containers.count:
            raise Unavailable("no container is left", f"go on with: {command('up')}")
        if signal.sigwait(awaited) != signal.SIGCHLD:
            return


def _stop_running(folder: MeshFolder, roots: set[str]) -> None:
    """Let ``up`` stop its containers; where it is gone (or outlived by them) stop them here. Raises: Unavailable."""
    processes = {each.name: each for each in folder.running()}
    supervisor = processes.pop(SUPERVISOR, None)
    if supervisor is not None:
        supervisor.send_signal(signal.SIGTERM)
        wait_until(lambda: not folder.lives(), STOP)
    stop_in_order(processes, roots)
    if not wait_until(lambda: not folder.lives(), STOP):
        raise Unavailable(
            f"the mesh in {folder.path} does not stop", f"see what holds {folder.path / 'lock'}"
        )
