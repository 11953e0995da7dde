"""What every adapter of the ``Blobs`` port does, sentence by sentence of ports.py."""

from __future__ import annotations

import asyncio
import os
import select
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from blake3 import blake3

from discloud.core.model import (
    KIB,
    MIB,
    BlobId,
    BucketId,
    Key,
    Label,
    Layout,
    Seal,
    SegmentId,
    State,
    Stored,
    VersionId,
)
from discloud.errors import Invalid, NoSpace, NoSuchBlob, TooLarge
from discloud.ports import SMALL, BlobReader, Blobs
from tests.contract.blob_adapters import CAPACITY

SIZES = (0, 1, 511, 512, 4096, 128 * KIB, 128 * KIB + 1, 256 * KIB, 256 * KIB + 1, MIB)


@dataclass
class Clock:
    """A clock that only a test moves."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def new_blob(fragment: int = 0) -> BlobId:
    return BlobId(VersionId(str(uuid.uuid4())), SegmentId(int.from_bytes(os.urandom(8))), fragment)


def new_label(key: str = "a/b.txt") -> Label:
    return Label("cluster", BucketId(str(uuid.uuid4())), "photos", Key(key), Layout(), "text/plain", 7)


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


async def write(
    blobs: Blobs, blob: BlobId, data: bytes, piece: int = 64 * KIB, known: bool = False
) -> Stored:
    """Write a blob piece by piece from a worker thread."""
    async with blobs.create(blob, new_label(), len(data) if known else None) as writer:
        for first in range(0, len(data), piece):
            await asyncio.to_thread(writer.write, memoryview(data)[first : first + piece])
        return await writer.commit(digest(data))


async def read(
    blobs: Blobs, blob: BlobId, offset: int = 0, length: int | None = None, limit: int = 100_000
) -> bytes:
    async with blobs.open(blob, offset, length) as reader:
        data = await read_all(reader, limit)
        assert len(data) == reader.length
        return data


async def read_all(reader: BlobReader, limit: int = 100_000) -> bytes:
    parts = []
    while part := await reader.read(limit):
        assert 1 <= len(part) <= limit
        parts.append(part)
    return b"".join(parts)


async def listed(stored: AsyncIterator[Stored]) -> list[Stored]:
    return [each async for each in stored]


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(0.005)


async def reserved(blobs: Blobs, length: int) -> bool:
    """Are just so many bytes promised? A node far away hears a little later that a writer was left."""
    return (await blobs.usage()).reserved == length


def order(blob: BlobId) -> tuple[str, int, int]:
    return blob.version, blob.segment, blob.fragment


class BlobsContract:
    """Needs fixtures ``blobs`` and ``clock``."""

    # ------------------------------------------------------------ writing

    @pytest.mark.parametrize("size", SIZES)
    async def test_put_is_fetched_as_it_was(self, blobs: Blobs, clock: Clock, size: int) -> None:
        blob, data, label = new_blob(), os.urandom(size), new_label("ünï/key")
        stored = await blobs.put(blob, label, data, digest(data))
        assert (stored.blob, stored.length, stored.hash, stored.created) == (
            blob,
            size,
            digest(data),
            clock.now,
        )
        assert (stored.bucket, stored.key, stored.sealed) == (label.bucket, label.key, False)
        assert await blobs.fetch(blob) == data

    async def test_put_beyond_small_is_refused(self, blobs: Blobs) -> None:
        with pytest.raises(TooLarge):
            await blobs.put(new_blob(), new_label(), bytes(SMALL + 1), bytes(32))

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("size", [*SIZES, 3 * MIB + 17])
    async def test_written_in_pieces_is_read_as_it_was(self, blobs: Blobs, size: int, known: bool) -> None:
        blob, data = new_blob(), os.urandom(size)
        stored = await write(blobs, blob, data, piece=50_001, known=known)
        assert (stored.blob, stored.length, stored.hash) == (blob, size, digest(data))
        assert await read(blobs, blob) == data

    async def test_the_writer_does_not_keep_the_callers_buffer(self, blobs: Blobs) -> None:
        blob, buffer = new_blob(), bytearray(b"first")
        async with blobs.create(blob, new_label()) as writer:
            await asyncio.to_thread(writer.write, memoryview(buffer))
            buffer[:] = b"other"
            await writer.commit(digest(b"first"))
        assert await blobs.fetch(blob) == b"first"

    @pytest.mark.parametrize("size", [100, MIB])
    async def test_nothing_is_visible_before_the_commit(self, blobs: Blobs, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        async with blobs.create(blob, new_label()) as writer:
            await asyncio.to_thread(writer.write, memoryview(data))
            with pytest.raises(NoSuchBlob):
                await blobs.stat(blob)
            with pytest.raises(NoSuchBlob):
                await blobs.fetch(blob)
            assert await listed(blobs.walk()) == []
            await writer.commit(digest(data))
            assert (await blobs.stat(blob)).length == size

    @pytest.mark.parametrize("size", [100, MIB])
    async def test_left_without_commit_nothing_is_stored(self, blobs: Blobs, size: int) -> None:
        blob, before = new_blob(), await blobs.usage()
        async with blobs.create(blob, new_label(), size) as writer:
            await asyncio.to_thread(writer.write, memoryview(bytes(size)))
        with pytest.raises(RuntimeError, match="the caller fails"):  # noqa: PT012
            async with blobs.create(blob, new_label(), size) as writer:
                await asyncio.to_thread(writer.write, memoryview(bytes(size)))
                raise RuntimeError("the caller fails")
        with pytest.raises(NoSuchBlob):
            await blobs.stat(blob)
        await eventually(lambda: reserved(blobs, before.reserved))
        after = await blobs.usage()
        assert (after.used, after.blobs) == (before.used, before.blobs)

    @pytest.mark.parametrize("size", [100, MIB])
    async def test_the_first_of_an_id_stays(self, blobs: Blobs, clock: Clock, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        first = await blobs.put(blob, new_label(), data, digest(data))
        used = (await blobs.usage()).used
        clock.now += 10
        for again in (await blobs.put(blob, new_label(), data, digest(data)), await write(blobs, blob, data)):
            assert (again.created, again.hash, again.length) == (first.created, first.hash, first.length)
        await eventually(lambda: reserved(blobs, 0))
        usage = await blobs.usage()
        assert (usage.blobs, usage.used) == (1, used)
        assert await blobs.fetch(blob) == data

    @pytest.mark.parametrize("size", [100, 500 * KIB])
    async def test_many_writers_of_one_id_store_it_once(self, blobs: Blobs, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(blobs.put(blob, new_label(), data, digest(data)))
        assert (await blobs.usage()).blobs == 1
        assert await blobs.fetch(blob) == data

    async def test_fragments_of_a_segment_are_blobs_of_their_own(self, blobs: Blobs) -> None:
        version = VersionId(str(uuid.uuid4()))
        ids = [
            BlobId(version, SegmentId(segment), fragment)
            for segment in (0, 2**64 - 1)
            for fragment in (0, 255)
        ]
        for blob in ids:
            await blobs.put(blob, new_label(), str(blob).encode(), bytes(32))
        for blob in ids:
            assert await blobs.fetch(blob) == str(blob).encode()

    # ------------------------------------------------------------ space

    async def test_a_known_length_is_reserved_at_once(self, blobs: Blobs) -> None:
        async with blobs.create(new_blob(), new_label(), 5 * MIB):
            await eventually(lambda: reserved(blobs, 5 * MIB))
        await eventually(lambda: reserved(blobs, 0))

    async def test_more_than_there_is_room_for_is_refused_before_the_first_byte(self, blobs: Blobs) -> None:
        with pytest.raises(NoSpace):
            async with blobs.create(new_blob(), new_label(), CAPACITY + 1):
                pytest.fail("it was accepted")
        async with blobs.create(new_blob(), new_label(), CAPACITY * 3 // 4):
            with pytest.raises(NoSpace):
                async with blobs.create(new_blob(), new_label(), CAPACITY * 3 // 4):
                    pytest.fail("the reservation was not counted")
        await eventually(lambda: reserved(blobs, 0))
        assert (await blobs.usage()).blobs == 0

    async def test_an_unknown_length_ends_where_the_room_ends(self, blobs: Blobs) -> None:
        blob, piece = new_blob(), bytes(8 * MIB)
        with pytest.raises(NoSpace):  # noqa: PT012
            async with blobs.create(blob, new_label()) as writer:
                for _ in range(CAPACITY // len(piece) + 1):
                    await asyncio.to_thread(writer.write, memoryview(piece))
                # At the latest: the last pieces may still be under way to a peer.
                await writer.commit(bytes(32))
        with pytest.raises(NoSuchBlob):
            await blobs.stat(blob)
        await eventually(lambda: reserved(blobs, 0))

    async def test_usage_follows_what_is_held(self, blobs: Blobs) -> None:
        empty = await blobs.usage()
        assert (empty.capacity, empty.used, empty.reserved, empty.blobs) == (CAPACITY, 0, 0, 0)
        assert not empty.read_only
        ids = [new_blob(), new_blob()]
        for blob, size in zip(ids, (1000, MIB), strict=True):
            await blobs.put(blob, new_label(), bytes(size), bytes(32))
        full = await blobs.usage()
        assert full.blobs == 2
        assert MIB + 1000 <= full.used <= MIB + 4000
        for blob in ids:
            await blobs.delete(blob)
        after = await blobs.usage()
        assert (after.used, after.blobs) == (0, 0)

    # ------------------------------------------------------------ reading

    @pytest.mark.parametrize("size", [1000, 700 * KIB])
    async def test_a_stretch_is_cut_at_the_end(self, blobs: Blobs, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        await blobs.put(blob, new_label(), data, digest(data))
        for offset, length in (
            (0, 0),
            (0, 1),
            (1, 10),
            (size - 1, 10),
            (size, 1),
            (size + 5, 5),
            (3, None),
            (0, None),
        ):
            expected = data[offset:] if length is None else data[offset : offset + length]
            assert await blobs.fetch(blob, offset, length) == expected
            assert await read(blobs, blob, offset, length) == expected
            async with blobs.open(blob, offset, length) as reader:
                assert reader.length == len(expected)

    @pytest.mark.parametrize("stretch", [(-1, 1), (0, -1)])
    async def test_a_stretch_that_cannot_be_is_refused(self, blobs: Blobs, stretch: tuple[int, int]) -> None:
        blob = new_blob()
        await blobs.put(blob, new_label(), b"abc", bytes(32))
        with pytest.raises(Invalid):
            await blobs.fetch(blob, *stretch)

    async def test_fetch_beyond_small_is_refused(self, blobs: Blobs) -> None:
        blob, data = new_blob(), os.urandom(SMALL + 1)
        await write(blobs, blob, data)
        with pytest.raises(TooLarge):
            await blobs.fetch(blob)
        assert await blobs.fetch(blob, 1, SMALL) == data[1:]

    async def test_the_source_gives_the_same_bytes(self, blobs: Blobs) -> None:
        blob, data = new_blob(), os.urandom(3 * MIB)
        await write(blobs, blob, data)
        async with blobs.open(blob, 300_000, 2_000_000) as reader:
            assert reader.length == 2_000_000
            found = await asyncio.to_thread(_drain, reader)
        assert found is None or found == data[300_000:2_300_000]

    async def test_absent_is_definite(self, blobs: Blobs) -> None:
        blob = new_blob()
        with pytest.raises(NoSuchBlob):
            await blobs.stat(blob)
        with pytest.raises(NoSuchBlob):
            await blobs.fetch(blob)
        with pytest.raises(NoSuchBlob):
            async with blobs.open(blob):
                pytest.fail("there is nothing to open")

    async def test_reading_touches_and_checks(self, blobs: Blobs, clock: Clock) -> None:
        for size in (1000, MIB):
            blob = new_blob()
            await blobs.put(blob, new_label(), bytes(size), bytes(32))
            before = await blobs.stat(blob)
            assert (await blobs.stat(blob)).touched == before.touched
            clock.now += 60
            await read(blobs, blob)
            after = await blobs.stat(blob)
            assert after.touched > before.touched
            assert after.checked == clock.now

    async def test_writing_again_touches(self, blobs: Blobs) -> None:
        blob = new_blob()
        first = await blobs.put(blob, new_label(), b"abc", bytes(32))
        assert (await blobs.put(blob, new_label(), b"abc", bytes(32))).touched > first.touched

    # ------------------------------------------------------------ deleting

    @pytest.mark.parametrize("size", [100, MIB])
    async def test_deleted_is_gone_and_may_be_deleted_again(self, blobs: Blobs, size: int) -> None:
        blob = new_blob()
        await blobs.delete(blob)
        await blobs.put(blob, new_label(), bytes(size), bytes(32))
        await asyncio.gather(*(blobs.delete(blob) for _ in range(5)))
        with pytest.raises(NoSuchBlob):
            await blobs.fetch(blob)
        assert await listed(blobs.walk()) == []

    @pytest.mark.parametrize("size", [100, MIB])
    async def test_deleted_may_be_written_again(self, blobs: Blobs, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        for _ in range(3):
            await blobs.put(blob, new_label(), data, digest(data))
            assert await blobs.fetch(blob) == data
            await blobs.delete(blob)
        assert (await blobs.usage()).used == 0

    @pytest.mark.parametrize("size", [1000, 3 * MIB])
    async def test_a_reader_finishes_what_is_deleted_under_it(self, blobs: Blobs, size: int) -> None:
        blob, data = new_blob(), os.urandom(size)
        await write(blobs, blob, data)
        async with blobs.open(blob) as reader:
            first = await reader.read(10)
            await blobs.delete(blob)
            assert first + await read_all(reader) == data

    # ------------------------------------------------------------ seals and walks

    async def test_walk_shows_every_blob_in_the_order_of_ids(self, blobs: Blobs, clock: Clock) -> None:
        version = str(uuid.uuid4())
        ids = [new_blob() for _ in range(150)]
        ids += [BlobId(VersionId(version), SegmentId(s), f) for s in (1, 2**63 + 1, 16) for f in (0, 2, 10)]
        for blob in ids:
            await blobs.put(blob, new_label(), str(blob).encode(), bytes(32))
        expected = sorted(ids, key=order)
        found = await listed(blobs.walk())
        assert [each.blob for each in found] == expected
        assert {each.length for each in found} == {len(str(blob)) for blob in ids}
        assert all(each.created == clock.now and each.key == "a/b.txt" for each in found)
        for after in (expected[0], expected[77], expected[-1]):
            rest = [each.blob async for each in blobs.walk(after)]
            assert rest == expected[expected.index(after) + 1 :]
        unknown = new_blob()
        assert [e.blob async for e in blobs.walk(unknown)] == [
            b for b in expected if order(b) > order(unknown)
        ]

    async def test_walk_lives_with_deletions(self, blobs: Blobs) -> None:
        ids = sorted((new_blob() for _ in range(300)), key=order)
        for blob in ids:
            await blobs.put(blob, new_label(), b"x", bytes(32))
        seen = []
        async for stored in blobs.walk():
            seen.append(stored.blob)
            if len(seen) == 1:
                await asyncio.gather(*(blobs.delete(blob) for blob in ids[200:]))
        assert seen[:200] == ids[:200]

    async def test_a_seal_names_all_blobs_of_its_version(self, blobs: Blobs, clock: Clock) -> None:
        version = VersionId(str(uuid.uuid4()))
        mine = [BlobId(version, SegmentId(segment), 0) for segment in (1, 2)]
        other = new_blob()
        for blob, size in zip([*mine, other], (10, MIB, 10), strict=True):
            await blobs.put(blob, new_label(), bytes(size), bytes(32))
        clock.now += 100
        late = new_blob()
        await blobs.put(late, new_label(), b"late", bytes(32))
        cut = clock.now
        assert {e.blob for e in await listed(blobs.unsealed(cut))} == {*mine, other}
        await blobs.seal([Seal(version, BucketId("b"), Key("k"), State.COMMITTED, 7, b"record")])

        async def sealed() -> bool:
            return {e.blob for e in await listed(blobs.unsealed(cut))} == {other}

        await eventually(sealed)
        assert [(await blobs.stat(blob)).sealed for blob in (*mine, other)] == [True, True, False]
        assert {e.blob for e in await listed(blobs.unsealed(cut + 1))} == {other, late}

    async def test_no_seals_are_fine(self, blobs: Blobs) -> None:
        await blobs.seal([])

    # ------------------------------------------------------------ concurrency

    async def test_many_at_once(self, blobs: Blobs) -> None:
        held = {new_blob(): os.urandom(size) for size in (10, 5000, 200 * KIB) for _ in range(40)}

        async def one(blob: BlobId, data: bytes) -> None:
            await write(blobs, blob, data)
            assert await read(blobs, blob) == data

        async with asyncio.TaskGroup() as group:
            for blob, data in held.items():
                group.create_task(one(blob, data))
        assert {e.blob for e in await listed(blobs.walk())} == held.keys()

    @pytest.mark.parametrize("size", [1000, MIB])
    async def test_a_cancelled_put_has_happened_or_not(self, blobs: Blobs, size: int) -> None:
        data = os.urandom(size)
        for rounds in range(8):
            blob = new_blob()
            task = asyncio.ensure_future(blobs.put(blob, new_label(), data, digest(data)))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                assert await blobs.fetch(blob) == data
            except NoSuchBlob:
                await blobs.put(blob, new_label(), data, digest(data))
                assert await blobs.fetch(blob) == data
        await eventually(lambda: reserved(blobs, 0))


def _drain(reader: BlobReader) -> bytes | None:
    """What the kernel would send, None where the adapter has no source."""
    source = reader.source
    if source is None:
        return None
    parts = []
    left = source.length
    position = getattr(source, "offset", 0)
    while left:
        part = min(left, 333_333)
        if hasattr(source, "check"):
            source.check(position, part)
            data = os.pread(source.fd, part, position)
        else:
            assert select.select([source.fd], [], [], 10)[0]
            data = os.read(source.fd, part)
        assert data
        parts.append(data)
        position += len(data)
        left -= len(data)
    return b"".join(parts)
