"""``discloud completion``: what a shell has to read so that TAB completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from discloud.errors import Invalid


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes TAB complete commands and options.

    \b
    Examples:
      eval "$(discloud completion bash)"        in ~/.bashrc
      eval "$(discloud completion zsh)"         in ~/.zshrc
      discloud completion fish > ~/.config/fish/completions/discloud.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Invalid(f"there is no completion for {shell}", "use bash, zsh or fish")
    click.echo(kind(ctx.find_root().command, {}, "discloud", "_DISCLOUD_COMPLETE").source())
