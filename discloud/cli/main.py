"""The program ``discloud``: its commands, and how every one of them ends.

Commands are named here and imported when they are run, so that ``discloud --help`` stays fast. Exit codes: 0 done,
1 it failed, 2 the command line is wrong, 130 Ctrl-C. A failure is one line on stderr that says what to do.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from discloud import __version__
from discloud.cli.output import say_error, told
from discloud.errors import DiscloudError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the section of the help it stands in, ``module:attribute``, and its line in the list."""

    section: str
    where: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "put": Entry("Files", "discloud.cli.put:put", "Store files, folders or standard input."),
    "get": Entry("Files", "discloud.cli.get:get", "Fetch objects into files; a cut transfer is resumed."),
    "cat": Entry("Files", "discloud.cli.get:cat", "Write objects to standard output."),
    "ls": Entry("Files", "discloud.cli.objects:ls", "List buckets, or the objects of one."),
    "rm": Entry("Files", "discloud.cli.objects:rm", "Remove objects."),
    "mv": Entry("Files", "discloud.cli.objects:mv", "Rename an object within its bucket."),
    "cp": Entry("Files", "discloud.cli.objects:cp", "Copy an object inside the mesh."),
    "stat": Entry("Files", "discloud.cli.facts:stat", "Show what is known of an object or a bucket."),
    "map": Entry("Files", "discloud.cli.facts:map_", "Show where every fragment and copy of an object lies."),
    "mb": Entry("Buckets", "discloud.cli.buckets:mb", "Make a bucket."),
    "rb": Entry("Buckets", "discloud.cli.buckets:rb", "Remove an empty bucket."),
    "nodes": Entry("Mesh", "discloud.cli.mesh:nodes", "Show the nodes and how full they are."),
    "status": Entry("Mesh", "discloud.cli.mesh:status", "Show the state of the mesh."),
    "up": Entry(
        "This machine",
        "discloud.cli.up:up",
        "Run a whole mesh on this machine: one root and N-1 ordinary containers.",
    ),
    "down": Entry(
        "This machine",
        "discloud.cli.up:down",
        'Stop the mesh that "discloud up" runs on this machine; its data stay.',
    ),
    "node": Entry(
        "This machine", "discloud.cli.node:node", "Run one container of a mesh until it is stopped."
    ),
    "migrate": Entry(
        "This machine",
        "discloud.cli.migrate:migrate",
        "Move a mesh's metadata from SQLite to Cassandra, or back.",
    ),
    "config": Entry(
        "This machine",
        "discloud.cli.config_command:config",
        "Show the settings of a node: file < DISCLOUD_* < flags.",
    ),
    "cert": Entry(
        "This machine",
        "discloud.cli.cert:cert",
        "Make the certificates of a mesh: a private authority, and one certificate for each node.",
    ),
    "completion": Entry(
        "This machine", "discloud.cli.completion:completion", "Print the completion script of a shell."
    ),
}
"""Every command by its name, in the order of the help."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, and turns every ending into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        del ctx
        if (entry := COMMANDS.get(cmd_name)) is None:
            return None
        module, _, attribute = entry.where.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a guess for a mistyped name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands by section, from the table alone: nothing is imported."""
        del ctx
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name, entry.summary) for name, entry in COMMANDS.items() if entry.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and leave the process with an exit code. Raises: SystemExit, always."""
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.Abort:
            code = INTERRUPTED
        except click.UsageError as error:
            code = _usage(error)
        except click.ClickException as error:
            say_error(error.format_message())
            code = error.exit_code
        except DiscloudError as error:
            say_error(told(error))
            code = 1
        except OSError as error:
            say_error(f"{error.filename or 'this machine'}: {error.strerror or error}")
            code = 1
        sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.UsageError) -> int:
    path = error.ctx.command_path if error.ctx else "discloud"
    say_error(f'{error.format_message().rstrip(".")}; see "{path} --help"')
    return error.exit_code


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "--version", prog_name="discloud", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep files together on a mesh of equal containers.

    Objects are named BUCKET/KEY. Which mesh: --url, DISCLOUD_URL, or the profile that "discloud up" writes to
    ~/.discloud/profile.toml ($DISCLOUD_HOME moves it).

    \b
    Examples:
      discloud up
      discloud put photo.jpg files/
      discloud ls files
      discloud get files/photo.jpg
    """


def main() -> None:
    """The console script. Never returns: leaves with an exit code."""
    if sys.platform == "win32":
        say_error(
            "discloud runs on Linux and macOS; on Windows use WSL (wsl --install) or the container image"
        )
        sys.exit(1)
    cli(prog_name="discloud")


if __name__ == "__main__":
    main()
