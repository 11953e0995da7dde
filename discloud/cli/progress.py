"""What a transfer shows on stderr: a moving bar on a terminal, else one line per file, and a summary at the end.

Owns the terminal's last line while it is open. Used from the event loop's thread only.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click

from discloud.cli.output import human, one_line, say_error, say_warning, span, told
from discloud.errors import DiscloudError

_REDRAW = 0.1  # seconds between two drawings: terminals are slow
_CLEAR = "\r\x1b[K"


class Progress:
    """Counts bytes and files of one command. ``failed`` and ``done`` are files, ``moved`` is bytes."""

    def __init__(
        self, verb: str, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._verb = verb
        self._quiet = quiet
        self._clock = clock
        self._bar = sys.stderr.isatty() and not quiet
        self._began = clock()
        self._drawn = 0.0
        self._total = 0
        self._complete = False
        self._expected = 0
        self._moved = 0
        self._resumed = 0
        self._done = 0
        self._line = ""
        self.failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if kind is None:
            self._summary()

    def expect(self, size: int) -> None:
        """One more file of ``size`` bytes will come."""
        self._total += size
        self._expected += 1

    def all_known(self) -> None:
        """No more files will be expected: an estimate makes sense from now on."""
        self._complete = True

    def moved(self, count: int) -> None:
        """``count`` more bytes moved; negative when some have to move again."""
        self._moved += count
        if self._bar and count and self._clock() - self._drawn >= _REDRAW:
            self._draw()

    def skipped(self, count: int) -> None:
        """``count`` bytes were there already: they count as done, not as speed."""
        self._resumed += count
        self.moved(count)

    def corrected(self, change: int) -> None:
        """A file turned out to be that much larger than was expected."""
        self._total += change

    def finished(self, line: str) -> None:
        """A file is through."""
        self._done += 1
        self._line = line
        if not self._bar and not self._quiet:
            click.echo(one_line(line), err=True)

    def fail(self, error: DiscloudError) -> None:
        """A file failed; the others go on."""
        self.failed += 1
        self._clear()
        say_error(told(error))

    def warn(self, text: str) -> None:
        """Show a warning without disturbing the bar."""
        self._clear()
        if not self._quiet:
            say_warning(text)

    def _rate(self) -> float:
        return (self._moved - self._resumed) / max(self._clock() - self._began, 0.001)

    def _draw(self) -> None:
        self._drawn = self._clock()
        rate = self._rate()
        share = self._moved / self._total if self._total else 0.0
        text = f"{self._verb} {self._done}/{self._expected}  {human(self._moved)}  {human(rate)}/s"
        if self._complete and rate > 0:
            text = f"{text}  {share * 100:3.0f} %  ETA {span(max(self._total - self._moved, 0) / rate)}"
        room = shutil.get_terminal_size().columns - len(text) - 5
        if self._complete and room >= 10:
            width = min(room, 40)
            full = round(min(share, 1.0) * width)
            text = f"[{'#' * full}{'.' * (width - full)}] {text}"
        sys.stderr.write(_CLEAR + text[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._bar and self._drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def _summary(self) -> None:
        """One file needs no summary: its line says it all."""
        if self._quiet:
            return
        if self._expected == 1:
            if self._bar and self._done:
                click.echo(one_line(self._line), err=True)
            return
        failed = f", {self.failed} failed" if self.failed else ""
        took = self._clock() - self._began
        files = "1 file" if self._done == 1 else f"{self._done} files"
        click.echo(
            f"{self._verb} {files}, {human(self._moved)} in {took:.1f} s ({human(self._rate())}/s){failed}",
            err=True,
        )


class FileProgress:
    """One fetched file of a Progress, of which ``size`` bytes are expected so far."""

    def __init__(self, progress: Progress, size: int) -> None:
        self._progress = progress
        self._size = size
        self.skipped = progress.skipped
        self.moved = progress.moved

    def sized(self, size: int) -> None:
        """The file has ``size`` bytes; may be told again."""
        self._progress.corrected(size - self._size)
        self._size = size
