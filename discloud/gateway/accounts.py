"""Who a token speaks for: looked up by digest, remembered for a short while.

Invariant: the token itself is kept nowhere, only its BLAKE3 digest; a revoked token works at most ``FRESH`` seconds
longer. Without metadata, tokens known before go on for ``GRACE`` seconds (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from discloud.core.model import Account
from discloud.errors import NotFound, Unauthenticated, Unavailable
from discloud.ports import Accounts as AccountsPort

FRESH = 5.0
GRACE = 600.0
REMEMBERED = 10_000
NO_TOKEN = Unauthenticated(
    "no valid token", "send the header 'Authorization: Bearer TOKEN' with a token of this mesh"
)


class Accounts:
    """Tokens to accounts, cached. Unknown tokens are not remembered: a flood of them cannot push good ones out."""

    def __init__(self, accounts: AccountsPort, clock: Callable[[], float]) -> None:
        self._accounts = accounts
        self._clock = clock
        self._known: dict[bytes, tuple[Account, float]] = {}

    def peek(self, token: bytes) -> Account | None:
        """The account if it is remembered and fresh; None = use ``of_token``.

        The look-up is by a cryptographic digest, so its timing tells nothing about the token.
        """
        known = self._known.get(token_digest(token))
        return known[0] if known and self._clock() - known[1] < FRESH else None

    async def of_token(self, token: bytes) -> Account:
        """The account that the token speaks for. Raises: Unauthenticated, Unavailable."""
        digest = token_digest(token)
        known = self._known.get(digest)
        age = self._clock() - known[1] if known else GRACE
        if known and age < FRESH:
            return known[0]
        try:
            account = await self._accounts.by_digest(digest)
        except NotFound:
            self._known.pop(digest, None)
            raise NO_TOKEN from None
        except Unavailable:
            if known and age < GRACE:
                return known[0]
            raise
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[digest] = (account, self._clock())
        return account


def token_digest(token: bytes) -> bytes:
    """The form in which a token is stored."""
    return blake3(token, derive_key_context="discloud 2026-11 api token").digest()
