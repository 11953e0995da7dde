"""The settings as text for people: a file to begin with, and docs/configuration.md."""

from __future__ import annotations

from discloud.config import SECTIONS, settings
from discloud.setting import Setting


def render_example() -> str:
    """A TOML file with every setting at its default, commented out."""
    lines = ["# discloud: every setting at its default; remove the # of what you change."]
    lines += ["# Variables DISCLOUD_* win over this file, flags win over both."]
    section = ""
    for setting in settings().values():
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"]
        lines += [
            "",
            f"# {setting.doc}",
            f"# accepted: {setting.accepted}",
            f"# {setting.field} = {_toml(setting)}",
        ]
    return "\n".join(lines) + "\n"


def _toml(setting: Setting) -> str:
    if setting.name == "node.data":
        return '"~/.discloud/data"'
    if setting.unit in {"addresses", "cassandra hosts"}:
        return "[]"
    plain = setting.type in {bool, int, float} and setting.unit in {"", "share"}
    shown = setting.show(setting.default)
    return shown if plain else f'"{shown}"'


def render_reference() -> str:
    """docs/configuration.md: what every setting means, by section."""
    lines = [_REFERENCE]
    for section in ("", *SECTIONS):
        lines += [f"## [{section}]" if section else "## Above all tables", ""]
        lines += ["| key | variable | default | accepted | meaning |", "|---|---|---|---|---|"]
        lines += [_row(each) for each in settings().values() if each.section == section]
        lines += [""]
    return "\n".join(lines)


def _row(setting: Setting) -> str:
    default = "$DISCLOUD_HOME/data" if setting.name == "node.data" else setting.show(setting.default)
    shown = f"`{default}`" if default else ""
    return f"| `{setting.field}` | `{setting.variable}` | {shown} | {setting.accepted} | {setting.doc} |"


_REFERENCE = """# Configuration

Made by `discloud config --reference`; a test compares this page with the program.

A node reads a TOML file (`--config FILE` or `DISCLOUD_CONFIG`), then variables `DISCLOUD_*`, then flags; the later one wins. An
empty variable counts as absent. An unknown key is an error with a hint, an invalid value too (exit code 2). Sizes are
bytes or `128 KiB`, `10 MB`, `5 TiB`; durations are seconds or `500ms`, `30s`, `15m`, `1h30m`, `7d`. `secret` and `token` may
come from a file: `secret_file`, `token_file`, `redis.url_file`, `cassandra.password_file`. `discloud config --example` prints a file to begin with,
`discloud config --show --origin` what holds here and where it came from.
"""
