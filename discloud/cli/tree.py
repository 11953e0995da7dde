"""Safe places below a folder for keys that anybody may have chosen.

Invariant: a Tree never hands out a path outside its folder, nor one path for two keys, also where a file system
takes ``A`` and ``a`` for one name.
"""

from __future__ import annotations

import os
from pathlib import Path

from discloud.cli.landing import part_names
from discloud.cli.telling import telling
from discloud.errors import Invalid


class Tree:
    """The files that a ``get -r`` writes below ``folder``. ``claim`` is for one thread; ``make_room`` blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: dict[str, str] = {}

    def claim(self, relative: str) -> Path:
        """The path for what is named ``relative`` to the fetched folder. Raises: Invalid, with the reason."""
        for segment in relative.split("/"):
            if reason := _refusal(segment):
                raise _refused(relative, reason)
        path = self._folder / relative
        wanted = [str(each).casefold() for each in (path, *part_names(path))]
        for name in wanted:
            if other := self._taken.get(name):
                raise _refused(relative, f"its name collides with that of {other!r}")
        self._taken |= dict.fromkeys(wanted, relative)
        return path

    def make_room(self, path: Path) -> None:
        """Make the folders above ``path``. Raises: Invalid when a symbolic link leads out of the folder."""
        with telling("make the folder of", path):
            parent, folder = path.parent.resolve(), self._folder.resolve()
            if not parent.is_relative_to(folder):
                raise _refused(str(path), f"a symbolic link leads out of {self._folder}")
            parent.mkdir(parents=True, exist_ok=True)


def _refusal(segment: str) -> str:
    if not segment:
        return "a part of its name is empty"
    if segment in {".", ".."}:
        return f"{segment!r} in a name is not followed"
    if "\0" in segment or os.path.basename(segment) != segment:  # noqa: PTH119  # also the separators of other systems
        return "its name cannot be a file's"
    return ""


def _refused(relative: str, reason: str) -> Invalid:
    return Invalid(f"refused {relative!r}: {reason}", "get it by itself under another name")
