"""A mesh's metadata with a past: every kind of row that a year of use leaves, and all that the port shows of it."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

from discloud.core.model import (
    Account,
    Bucket,
    BucketId,
    Key,
    NodeId,
    Role,
    Version,
)
from discloud.errors import DiscloudError, NoSuchVersion, NotFound
from discloud.ports import Metadata
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import (
    ANY,
    BUCKET,
    N1,
    N2,
    N3,
    blob,
    delete_of,
    draft,
    everywhere,
    move_of,
    node,
    put_of,
    repair_of,
    update_of,
)

KEYS = ("a", "a/", "a/b", "a/b/c", "b", "é/b", "\uffff/", "😀", "deep/er/and/deep/er")
OTHER = Bucket(BucketId("b1000000-0000-4000-8000-000000000000"), "other", 2.0, layout="mirror:all", rev=0)
EMPTY = Bucket(BucketId("b2000000-0000-4000-8000-000000000000"), "empty", 3.0)
REMOVED = Bucket(BucketId("b3000000-0000-4000-8000-000000000000"), "removed", 4.0)
ACCOUNTS = tuple(Account(f"id{number}", f"name{number}", bytes([number]) * 32) for number in range(3))
END = 4_000_000_000.0
"""After everything that is ever due."""


class Past:
    """Random steps on ``metadata``; it remembers every version that it made."""

    def __init__(self, metadata: Metadata, clock: Clock, seed: int) -> None:
        self.metadata = metadata
        self.clock = clock
        self.random = random.Random(seed)
        self.made: list[Version] = []

    async def live(self, steps: int) -> None:
        """Make the fixed parts, then take ``steps`` random steps."""
        buckets, nodes = self.metadata.buckets, self.metadata.nodes
        for bucket in (BUCKET, OTHER, EMPTY, REMOVED):
            await buckets.create(bucket)
        await buckets.remove(REMOVED)
        await buckets.update(replace(await buckets.get("empty"), cache_control="no-store"))
        for account in ACCOUNTS:
            await self.metadata.accounts.add(account)
        await nodes.register(replace(node(N1, "one"), role=Role.ROOT), "nonce1", self.clock.now)
        await nodes.register(node(N2, "two", zone="z"), "nonce2", self.clock.now)
        await nodes.release(N1, "nonce1")
        await self.go_on(steps)

    async def go_on(self, steps: int) -> None:
        """Take random steps."""
        for _ in range(steps):
            self.clock.now += self.random.random()
            with suppress(DiscloudError):  # a step that the past does not allow
                await self._step()

    async def _step(self) -> None:
        versions, draw = self.metadata.versions, self.random
        key = draw.choice(KEYS)
        made = self._draft(key)
        bucket = made.bucket
        match draw.randrange(12):
            case 0 | 1 | 2 | 3:
                await versions.put(
                    made, ANY, (repair_of(made, self.clock.now),) if draw.random() < 0.2 else ()
                )
            case 4:
                await versions.begin(made)
            case 5:
                await versions.begin(made)
                await versions.commit(put_of(made, keep=draw.choice([0.0, 60.0])), ANY)
            case 6:
                if draw.random() < 0.5:
                    await versions.begin(made)
                await versions.abort(made)
            case 7:
                await versions.commit(replace(delete_of(key, keep=30.0), bucket=bucket), ANY)
            case 8:
                head = await versions.get(bucket, Key(key))
                await versions.commit(update_of(replace(head, metadata=(("k", str(draw.random())),))), ANY)
            case 9:
                head = await versions.get(bucket, Key(key))
                await versions.commit(move_of(head, draw.choice(KEYS)), ANY)
            case 10:
                head = await versions.get(bucket, Key(key))
                await versions.relocate(head, blob(head), (N2, N3))
            case _:
                old = draw.choice(self.made)
                await versions.forget(await versions.find(old.bucket, old.key, old.id))

    def _draft(self, key: str) -> Version:
        made = draft(key) if self.random.random() < 0.6 else everywhere(key)
        bucket = self.random.choice([BUCKET, BUCKET, OTHER]).id
        made = replace(made, bucket=bucket, due=self.clock.now + self.random.choice([-50.0, 1000.0]))
        self.made.append(made)
        return made

    async def shown(self, metadata: Metadata) -> dict[str, Any]:
        """Everything that the port tells of the past: the same for two adapters that hold the same."""
        heads = {bucket.name: await _listing(metadata, bucket.id) for bucket in await metadata.buckets.all()}
        log = [entry async for entry in _log(metadata)]
        numbers = [entry.number for entry in log]
        assert numbers == sorted(set(numbers))
        queues = metadata.queues
        return {
            "cluster": metadata.cluster,
            "buckets": await metadata.buckets.all(),
            "heads": heads,
            "versions": {each.id: await _found(metadata, each) for each in self.made},
            "expired": _by_id(await queues.expired(END, 10_000)),
            "collectable": _by_id(await queues.collectable(END, 10_000)),
            "repairs": {str(each.blob): each for each in await queues.repairs(END, 10_000)},
            "log": [replace(entry, number=0) for entry in log],
            "accounts": [await metadata.accounts.by_digest(each.digest) for each in ACCOUNTS],
            "nodes": await metadata.nodes.all(),
            "held": {each: await _held(metadata, each) for each in (N1, N2, N3)},
        }


async def _listing(metadata: Metadata, bucket: BucketId) -> list[Version]:
    found: list[Version] = []
    after: str | None = ""
    while after is not None:
        page = await metadata.versions.list_keys(bucket, "", "", after, 4)
        found += page.versions
        after = page.after
    return found


async def _found(metadata: Metadata, version: Version) -> Version | str:
    try:
        return await metadata.versions.find(version.bucket, version.key, version.id)
    except NoSuchVersion:
        return "no row"


async def _log(metadata: Metadata) -> Any:
    after = 0
    while page := await metadata.queues.log(after, 7):
        for entry in page:
            yield entry
        after = page[-1].number


def _by_id(versions: tuple[Version, ...]) -> dict[str, Version]:
    return {each.id: each for each in versions}


async def _held(metadata: Metadata, id: NodeId) -> set[str]:
    return {each.id async for each in metadata.versions.on_node(id)}


async def refuses_the_removed_bucket(metadata: Metadata) -> bool:
    """Whether the id of the bucket that was removed is still given."""
    try:
        await metadata.buckets.get(REMOVED.name)
    except NotFound:
        pass
    else:
        return False
    with suppress(DiscloudError):
        await metadata.buckets.create(replace(REMOVED, name="again"))
        return False
    return True


async def numbers_of(metadata: Metadata) -> list[int]:
    """The numbers of the log."""
    return [entry.number async for entry in _log(metadata)]
