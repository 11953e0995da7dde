"""From a CALL message to a local port and back to its answer; the same for both kinds of connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from discloud import logs
from discloud.errors import DiscloudError, Invalid, OutcomeUnknown, TooSlow, Unavailable
from discloud.peer.methods import PORTS, Method, methods_of
from discloud.peer.wire import ANSWER, Message, failure


@dataclass(frozen=True, slots=True)
class Request:
    """A CALL message, checked."""

    number: int
    method: str
    arguments: list[Any]
    seconds: float
    request: str
    trace: str

    @classmethod
    def of(cls, message: Message) -> Request:
        """Raises: Invalid: the other side follows another protocol."""
        match message:
            case [1, int(number), str(method), list(arguments), int(left), str(request), str(trace), *_]:
                return cls(number, method, arguments, left / 1000, request, trace)
            case _:
                raise Invalid(f"a message of kind {message[0]!r} came where a call was due")

    def enter(self) -> None:
        """Make this task's log lines belong to the request for which the peer calls."""
        logs.REQUEST.set(self.request)
        logs.TRACE.set(self.trace)


class Dispatch:
    """The calls that this node answers. A part that it does not have (None) is ``Unavailable`` to its callers."""

    def __init__(self, parts: Mapping[str, object | None]) -> None:
        self._calls = {
            method.name: (method, getattr(part, name) if part is not None else None)
            for first, part in parts.items()
            for name, method in methods_of(first).items()
        }

    def find(self, name: str, *, pages: bool) -> tuple[Method, Callable[..., Any]]:
        """The call of that name. Raises: Invalid (unknown, or not for this kind of connection), Unavailable (not here)."""
        if name not in self._calls:
            raise Invalid(
                f"there is no call {name!r}", "the calling node is newer than this one: upgrade this one"
            )
        method, call = self._calls[name]
        if call is None:
            raise Unavailable(f"this node does not answer {name}", "ask a root")
        if method.pages != pages:
            raise Invalid(f"{name} does not belong on this kind of connection")
        return method, call

    async def answer(self, request: Request) -> Message:
        """Make the call and tell its outcome, within the caller's deadline."""
        try:
            async with asyncio.timeout(request.seconds):
                method, call = self.find(request.method, pages=False)
                value = await call(*method.unpack(request.arguments))
                return [ANSWER, request.number, method.pack_result(value)]
        except TimeoutError:
            return failure(request.number, TooSlow(f"{request.method} took over {request.seconds:.1f} s"))
        except Exception as error:  # noqa: BLE001  whatever fails in a call concerns its caller, not the connection
            return failure(request.number, told(request, error))

    def pages(self, request: Request) -> tuple[Method, AsyncIterator[Any]]:
        """Begin a call with pages. Raises: as ``find``; Invalid."""
        method, call = self.find(request.method, pages=True)
        return method, call(*method.unpack(request.arguments))


def told(request: Request, error: Exception) -> DiscloudError:
    """What the caller is told of an error. A fault of this node's code is logged here; there it says nothing, not even whether the call happened."""
    if isinstance(error, DiscloudError):
        return error
    logs.error("peer_call_failed", traceback=True, method=request.method)
    return OutcomeUnknown(f"the node failed inside while it answered {request.method}", "its log tells more")


def parts(
    blobs: object, metadata: Any, membership: object, gossip: object | None = None
) -> dict[str, object | None]:
    """The parts of PORTS from a node's adapters."""
    own = {"blobs": blobs, "membership": membership, "gossip": gossip}
    return {name: own[name] if name in own else getattr(metadata, name, None) for name in PORTS}
