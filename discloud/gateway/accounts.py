"""Who a token speaks for: looked up by digest, remembered for a short while.

Invariant: the token itself is kept nowhere, only its BLAKE3 digest; a revoked token works at most ``FRESH`` seconds
longer. Without metadata, tokens known before go on for ``GRACE`` seconds (DESIGN section 5), and are not held up by it.
"""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3

from discloud.core.model import Account
from discloud.errors import NotFound, Unauthenticated, Unavailable
from discloud.gateway.breaker import HURRY, Breaker
from discloud.ports import Accounts as AccountsPort

FRESH = 5.0
GRACE = 600.0
REMEMBERED = 10_000
NO_TOKEN = Unauthenticated(
    "no valid token", "send the header 'Authorization: Bearer TOKEN' with a token of this mesh"
)


class Accounts:
    """Tokens to accounts, cached. Unknown tokens are not remembered: a flood of them cannot push good ones out."""

    def __init__(self, accounts: AccountsPort, clock: Callable[[], float], breaker: Breaker) -> None:
        self._accounts = accounts
        self._clock = clock
        self._breaker = breaker
        self._known: dict[bytes, tuple[Account, float]] = {}

    def peek(self, token: bytes) -> Account | None:
        """The account if it is remembered and fresh, or remembered and nobody to be asked; None = use ``of_token``.

        The look-up is by a cryptographic digest, so its timing tells nothing about the token.
        """
        return self._remembered(token_digest(token))

    async def of_token(self, token: bytes) -> Account:
        """The account that the token speaks for. Raises: Unauthenticated, Unavailable."""
        digest = token_digest(token)
        if account := self._remembered(digest):
            return account
        known = self._known.get(digest)
        graced = known[0] if known and self._clock() - known[1] < GRACE else None
        if graced and self._breaker.failing:
            self._breaker.find_out(lambda: self._look_up(digest, self._breaker.patience))
            return graced
        try:
            return await self._look_up(digest, HURRY if graced else self._breaker.patience)
        except Unavailable:
            if graced:
                return graced
            raise

    async def _look_up(self, digest: bytes, patience: float) -> Account:
        try:
            account = await self._breaker.ask(self._accounts.by_digest(digest), patience)
        except NotFound:
            self._known.pop(digest, None)
            raise NO_TOKEN from None
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[digest] = (account, self._clock())
        return account

    def _remembered(self, digest: bytes) -> Account | None:
        known = self._known.get(digest)
        if known is None:
            return None
        age = self._clock() - known[1]
        return known[0] if age < FRESH or (age < GRACE and self._breaker.hopeless) else None


def token_digest(token: bytes) -> bytes:
    """The form in which a token is stored."""
    return blake3(token, derive_key_context="discloud 2026-11 api token").digest()
