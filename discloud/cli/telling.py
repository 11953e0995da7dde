"""Errors of this machine's files, told as errors of discloud that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from discloud.errors import DiscloudError


@contextmanager
def telling(verb: str, shown: object) -> Iterator[None]:
    """OSErrors inside become "cannot VERB SHOWN". A closed pipe passes through: nobody reads on."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiscloudError(f"cannot {verb} {shown}: {reason}") from error
    except ValueError as error:  # a NUL in a name
        raise DiscloudError(f"cannot {verb} {shown}: {error}") from error
