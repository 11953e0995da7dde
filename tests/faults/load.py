"""What the tests of a cluster's faults share: a load that outlives two of five nodes, and a count of who noticed a fault."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults.storm import Asked, Pair, Storm
from tests.support.processes import Mesh, until

CLIENTS = 4
PAIRS = 4
LAYOUTS = ("", "", "copies=3", "copies=all")
SETTLED = 2.0
"""Seconds after a fault within which a request may fail."""
ENOUGH = 150
"""Requests that show that all goes on."""
AT_FIRST = 60
"""Requests before and after, so that there is something to lose."""
FEW = 20
"""One change in so many may be refused while Cassandra has not noticed that a node of it died."""
CHANGES = frozenset({"put", "delete", "rename"})


def storm_of(mesh: Mesh, name: str, bucket: str = "files") -> Storm:
    """A storm on keys of its own."""
    pairs = [Pair(f"{name}-{number}", bucket=bucket) for number in range(PAIRS)]
    return Storm(mesh, 4, pairs, layouts=LAYOUTS, hasty=0)


async def answered(
    storm: Storm, since: float, count: int, which: Callable[[Asked], bool] = lambda _: True
) -> list[Asked]:
    """The requests that began after ``since`` (``time.monotonic()``), once ``count`` of those that are meant have an answer."""

    async def enough() -> bool:
        return sum(each.begin >= since and which(each) for each in storm.asked) >= count

    await until(enough, 90, f"{count} answers")
    return [each for each in storm.asked if each.begin >= since]


async def nobody_notices(storm: Storm, what: str, *, settled: float = 0.0, count: int = ENOUGH) -> None:
    """Requests that begin ``settled`` seconds from now or later do not fail; the counts are printed."""
    now = time.monotonic()
    since = now + settled
    failed = [each for each in await answered(storm, since, count) if each.failed]
    before = [each for each in storm.asked if each.failed and now <= each.begin < since]
    print(f"\n{what}: failed {len(before)} at first, {len(failed)} later; {storm.answers(now)}")
    assert not failed, what + "\n" + "\n".join(f"{each.begin - now:.2f} s later: {each}" for each in failed)


async def few_notice(storm: Storm, what: str, since: float) -> None:
    """Of the requests that began after ``since`` (``time.monotonic()``) and were answered reads did not fail, of changes few, each
    with a 503 that may be repeated; the counts are printed."""
    asked = [each for each in storm.asked if each.begin >= since]
    changes = [each for each in asked if each.kind in CHANGES]
    refused = [each for each in changes if each.told.startswith("503 ")]
    print(f"\n{what}: refused {len(refused)} of {len(changes)} changes; {storm.answers(since)}")
    assert len(changes) >= FEW, "the load goes on"
    assert [each for each in asked if each.failed] == refused
    assert len(refused) <= len(changes) / FEW, "\n".join(map(str, refused))


async def recovers(
    storm: Storm, what: str, which: Callable[[Asked], bool] = lambda _: True, count: int = AT_FIRST
) -> None:
    """By itself the mesh comes to serve ``count`` requests in a row, of those that are meant; how long it took is printed."""
    healed = time.monotonic()

    async def served() -> bool:
        last = [each for each in storm.asked if each.begin >= healed and which(each)][-count:]
        return len(last) == count and not any(each.failed for each in last)

    await until(served, 90, what)
    failed = [each for each in storm.asked if each.begin >= healed and each.failed and which(each)]
    print(f"\n{what}: failed {len(failed)}, {time.monotonic() - healed:.1f} s; {storm.answers(healed)}")
