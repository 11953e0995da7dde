"""``discloud migrate``: a mesh's metadata from SQLite to Cassandra and back, while no root runs."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from discloud.cli.node import load_or_refuse
from discloud.cli.options import as_json, quiet
from discloud.cli.output import emit, gauge, say_warning, table
from discloud.config import Config

if TYPE_CHECKING:  # the adapters are slow to import: --help must not wait for them
    from discloud.adapters.cassandra.driver import Settings
    from discloud.adapters.migration import Migrated
    from discloud.adapters.portable import Source, Target

DATABASE = "metadata.db"
"""A root's database in its data folder."""
_PATIENCE = 10.0
"""Seconds for one call to Cassandra: nobody waits for a single answer here, and reading many rows may take its time."""
_REDRAW = 0.1  # seconds between two drawings: terminals are slow
_CLEAR = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Place:
    """Where metadata is: in the file ``path``, or in Cassandra, of which ``config`` has the settings."""

    path: Path | None
    config: Config

    def __str__(self) -> str:
        if self.path is not None:
            return f"sqlite:{self.path}"
        cassandra = self.config.cassandra
        return f"cassandra://{','.join(cassandra.hosts)}/{cassandra.keyspace}"

    @property
    def start(self) -> str:
        """How a root is started with it."""
        if self.path is not None:
            return f"discloud node --role=root --data {self.path.parent}"
        keyspace = self.config.cassandra.keyspace
        setting = "" if keyspace == "discloud" else f"DISCLOUD_CASSANDRA_KEYSPACE={keyspace} "
        hosts = ",".join(self.config.cassandra.hosts)
        return f"{setting}discloud node --role=root --data {self.config.node.data} --cassandra {hosts}"


@click.command()
@click.option(
    "--to", "to", metavar="ADDRESS", required=True, help="cassandra://HOST[,HOST]/KEYSPACE or sqlite:FILE."
)
@click.option("--from", "source", metavar="ADDRESS", help="The same; the database of --data unless given.")
@click.option("--data", metavar="DIR", help="Data folder of the root; $DISCLOUD_HOME/data unless given.")
@click.option("--config", "file", metavar="FILE", type=Path, help="TOML file  [env: DISCLOUD_CONFIG]")
@click.option("--dry-run", is_flag=True, help="Only count what would be moved.")
@click.option("--restart", is_flag=True, help="Remove what an unfinished migration left and begin anew.")
@as_json
@quiet
def migrate(
    to: str, source: str | None, data: str | None, file: Path | None,
    dry_run: bool, restart: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Move a mesh's metadata from SQLite to Cassandra, or back.

    Stop the root first; the other nodes may run on. Everything is copied and compared, the source stays as it is. A
    run that was cut (Ctrl-C too) goes on where it stopped when it is repeated. User, password and replication of
    Cassandra come from the settings (--config, DISCLOUD_CASSANDRA_*).

    \b
    Examples:
      discloud migrate --data /srv/discloud --to cassandra://10.0.0.6,10.0.0.7/discloud --dry-run
      discloud migrate --data /srv/discloud --to cassandra://10.0.0.6,10.0.0.7/discloud
      discloud migrate --from cassandra://10.0.0.6/discloud --to sqlite:/srv/discloud/metadata.db
    """
    import uvloop

    here = place(source, data, file, "--from")
    there = place(to, data, file, "--to")
    if here.path is not None and there.path is not None:
        raise click.UsageError("both sides are SQLite: stop the root and copy its data folder instead")
    with Steps(quiet=quiet or as_json) as steps:
        try:
            if dry_run:
                _say_counts(here, uvloop.run(_survey(here, there, steps)), as_json=as_json)
            else:
                _say_moved(
                    here, there, uvloop.run(_move(here, there, steps, restart=restart)), as_json=as_json
                )
        except KeyboardInterrupt:
            steps.clear()
            if not dry_run:
                say_warning("stopped; what is copied stays, and the same command goes on from there")
            raise


# ---------------------------------------------------------------- places


def place(address: str | None, data: str | None, file: Path | None, option: str) -> Place:
    """The place of an address, None = the database of the data folder. Raises: click.UsageError."""
    if address is None or address.startswith("sqlite:"):
        config = load_or_refuse(file, os.environ, {"data": data})
        path = Path((address or "").removeprefix("sqlite:") or config.node.data / DATABASE)
        return Place(path.expanduser().absolute(), config)
    found = re.fullmatch(r"cassandra://([^/@]+)(?:/([^/]*))?", address)
    if found is None:
        raise click.UsageError(
            f"{option} {address} is neither cassandra://HOST[,HOST]/KEYSPACE nor sqlite:FILE"
        )
    environ: Mapping[str, str] = os.environ
    if found[2]:
        environ = {**environ, "DISCLOUD_CASSANDRA_KEYSPACE": found[2]}
    return Place(None, load_or_refuse(file, environ, {"data": data, "cassandra": found[1]}))


@asynccontextmanager
async def _source(here: Place, to: str) -> AsyncIterator[Source]:
    opened = await _open_source(here, to)
    try:
        yield opened
    finally:
        await opened.close()


async def _open_source(here: Place, to: str) -> Source:
    if here.path is not None:
        from discloud.adapters.sqlite.portable import SqlitePortable

        return await SqlitePortable.source(here.path, to)
    from discloud.adapters.cassandra.portable import CassandraPortable

    return await CassandraPortable.source(_settings(here.config), to, time.time)


@asynccontextmanager
async def _target(there: Place, cluster: str) -> AsyncIterator[Target]:
    opened = await _open_target(there, cluster)
    try:
        yield opened
    finally:
        await opened.close()


async def _open_target(there: Place, cluster: str) -> Target:
    if there.path is not None:
        from discloud.adapters.sqlite.portable import SqlitePortable

        return await SqlitePortable.target(there.path, cluster)
    from discloud.adapters.cassandra.portable import CassandraPortable

    return await CassandraPortable.target(_settings(there.config), cluster, time.time)


def _settings(config: Config) -> Settings:
    from discloud.adapters.cassandra.driver import Settings

    given = config.cassandra
    return Settings(
        given.hosts, given.keyspace, given.replication, given.datacenter,
        given.username, given.password, _PATIENCE, given.in_flight,
    )  # fmt: skip


# ---------------------------------------------------------------- work


async def _survey(here: Place, there: Place, steps: Steps) -> dict[str, int]:
    from discloud.adapters.migration import survey

    async with _source(here, str(there)) as source:
        await steps.expect(source)
        return {str(kind): count for kind, count in (await survey(source, steps.told)).items()}


async def _move(here: Place, there: Place, steps: Steps, *, restart: bool) -> Migrated:
    from discloud.adapters.migration import migrate as move

    async with _source(here, str(there)) as source, _target(there, source.cluster) as target:
        await steps.expect(source)
        return await move(source, target, (str(here), str(there)), time.time, steps.told, restart=restart)


# ---------------------------------------------------------------- telling


class Steps:
    """What is being moved: a moving line on a terminal, and a line on stderr for each kind that is through."""

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._moving = sys.stderr.isatty() and not quiet
        self._clock = clock
        self._drawn = 0.0
        self._what = ""
        self._count = 0
        self._totals: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    async def expect(self, source: Source) -> None:
        """Learn how many rows will come, as far as the source knows it."""
        from discloud.adapters.portable import COPIED

        if self._moving:
            self._totals = {kind: count for kind in COPIED if (count := await source.count(kind))}

    def told(self, what: str, count: int) -> None:
        """``count`` rows of ``what`` are through."""
        if what != self._what:
            self.through()
        self._what, self._count = what, count
        if self._moving and self._clock() - self._drawn >= _REDRAW:
            self._drawn = self._clock()
            sys.stderr.write(_CLEAR + self._line()[: shutil.get_terminal_size().columns - 1])
            sys.stderr.flush()

    def _line(self) -> str:
        from discloud.adapters.migration import VERIFY

        total = self._totals.get(self._what.removeprefix(VERIFY))
        if total is None:
            return f"{self._what} {self._count}"
        return f"{gauge(self._count / total)}  {self._what} {self._count}/{total}"

    def through(self) -> None:
        """Say what is done of the present kind; the next one begins."""
        self.clear()
        if self._what and not self._quiet:
            click.echo(f"{self._what}: {self._count}", err=True)
        self._what = ""

    def clear(self) -> None:
        """Take the moving line away."""
        if self._drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self._drawn = 0.0


def _say_counts(here: Place, counts: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        emit({"from": str(here), "rows": counts})
    else:
        table([[str(count), kind] for kind, count in counts.items()], frozenset({0}))


def _say_moved(here: Place, there: Place, moved: Migrated, *, as_json: bool) -> None:
    if as_json:
        kinds = {each.kind: {"rows": each.rows, "digest": each.digest} for each in moved.kinds}
        emit({"from": str(here), "to": str(there), "resumed": moved.resumed, "verified": kinds})
        return
    click.echo(f"moved from {here} to {there}; the same on both sides:")
    table([[str(each.rows), each.kind, each.digest[:16]] for each in moved.kinds], frozenset({0}))
    click.echo(f"start the root with: {there.start}")
