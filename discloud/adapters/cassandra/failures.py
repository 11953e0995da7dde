"""What the driver raises, as what it means: nothing happened, or nobody knows.

A failed call is worth repeating at another coordinator unless Cassandra refused what it says; whether a lightweight
transaction can still apply after a failure decides between ``Unavailable`` and ``OutcomeUnknown``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cassandra import (
    AuthenticationFailed,
    OperationTimedOut,
    ReadTimeout,
    RequestValidationException,
    Unavailable,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable
from cassandra.protocol import IsBootstrappingErrorMessage, OverloadedErrorMessage

_NEVER_SENT = (NoHostAvailable,)
_REFUSED = (RequestValidationException, AuthenticationFailed)
_NOT_BEGUN = (Unavailable, OverloadedErrorMessage, IsBootstrappingErrorMessage)


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that gave no answer.

    ``applied``: whether a lightweight transaction may have been or may yet be applied; ``repeat``: whether another coordinator
    may do better; ``sent``: whether it left this process.
    """

    detail: str
    applied: bool
    repeat: bool
    sent: bool = True


def read_failure(error: BaseException) -> Failure:
    """What ``error`` means. Everything that is not known to be harmless may have been applied."""
    if isinstance(error, _REFUSED):
        return Failure(f"Cassandra refuses: {error}", applied=False, repeat=False)
    if isinstance(error, _NEVER_SENT):
        return Failure("no Cassandra node can be reached", applied=False, repeat=False, sent=False)
    if isinstance(error, _NOT_BEGUN):
        return Failure(
            _NOT_BEGUN_TEXT.get(type(error), "Cassandra is overloaded"), applied=False, repeat=True
        )
    if isinstance(error, OperationTimedOut | TimeoutError):
        return Failure("Cassandra did not answer in time", applied=True, repeat=True)
    if isinstance(error, ReadTimeout | WriteTimeout):
        return Failure("too few of Cassandra's replicas answered in time", applied=True, repeat=True)
    return Failure(f"the call to Cassandra failed: {error}", applied=True, repeat=True)


_NOT_BEGUN_TEXT: dict[type, str] = {Unavailable: "too few of Cassandra's replicas are up"}
