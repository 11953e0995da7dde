"""Power cuts at any call to the disk: what was acknowledged is there and equal, nothing torn is ever served."""

from __future__ import annotations

import asyncio
import random
import tempfile
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.core.model import KIB, BlobId, BucketId, Key, Label, Layout, Seal, SegmentId, State, VersionId
from discloud.errors import DiscloudError, NoSuchBlob
from tests.support.faulty_files import FaultyFiles

LABEL = Label("cluster", BucketId("bucket"), "photos", Key("a/b"), Layout())
SETTINGS = DiskSettings(
    small=2 * KIB, pack_size=16 * KIB, seal_delay=0.0, checkpoint_every=7, compact_at=0.3, open_files=3
)
SIZES = (0, 1, 300, 1500, 2 * KIB, 5 * KIB, 300 * KIB)
BLOBS = [BlobId(VersionId(str(uuid.UUID(int=number // 2))), SegmentId(number % 2), 0) for number in range(24)]
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, len(BLOBS) - 1)),
    st.tuples(st.just("delete"), st.integers(0, len(BLOBS) - 1)),
    st.tuples(st.just("seal"), st.integers(0, len(BLOBS) - 1)),
    st.tuples(st.just("compact"), st.just(0)),
)
BURSTS = st.lists(
    st.tuples(st.lists(OPERATIONS, min_size=1, max_size=12), st.one_of(st.none(), st.integers(0, 40))),
    min_size=1,
    max_size=8,
)


def content(blob: BlobId) -> bytes:
    """The bytes of a blob follow from its id: they never differ."""
    number = BLOBS.index(blob)
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


@dataclass
class Model:
    """What must be there, what must not, and of what nobody knows."""

    present: set[BlobId] = field(default_factory=set)
    unknown: set[BlobId] = field(default_factory=set)
    seq: int = 0


async def attempt(action: Coroutine[Any, Any, object]) -> bool:
    try:
        await action
    except DiscloudError:
        return False
    return True


async def operate(blobs: DiskBlobs, model: Model, name: str, blob: BlobId) -> None:
    """One operation; while it is under way its outcome is unknown, and stays so where it fails."""
    if name == "put":
        known = blob in model.present and blob not in model.unknown
        model.unknown |= set() if known else {blob}
        if await attempt(blobs.put(blob, LABEL, content(blob), bytes(32))) and not known:
            model.present.add(blob)
            model.unknown.discard(blob)
    elif name == "delete":
        model.unknown.add(blob)
        if await attempt(blobs.delete(blob)):
            model.present.discard(blob)
            model.unknown.discard(blob)
    elif name == "seal":
        model.seq += 1
        seal = Seal(blob.version, BucketId("bucket"), Key("a/b"), State.COMMITTED, model.seq, b"record")
        await attempt(blobs.seal([seal]))
    elif name == "compact":
        await attempt(blobs.run_compaction_once())


async def burst(blobs: DiskBlobs, model: Model, operations: list[tuple[str, int]]) -> None:
    """Different blobs at the same time, the same blob one after another."""
    by_blob: dict[int, list[str]] = {}
    for name, number in operations:
        by_blob.setdefault(number, []).append(name)

    async def one(number: int, names: list[str]) -> None:
        for name in names:
            await operate(blobs, model, name, BLOBS[number])

    async with asyncio.TaskGroup() as group:
        for number, names in by_blob.items():
            group.create_task(one(number, names))


async def check(blobs: DiskBlobs, model: Model) -> None:
    """The disk holds what the model says; what was unknown is settled by what is found."""
    for blob in BLOBS:
        try:
            assert await blobs.fetch(blob) == content(blob)
            found = True
        except NoSuchBlob:
            found = False
        if blob in model.unknown:
            model.unknown.discard(blob)
            (model.present.add if found else model.present.discard)(blob)
        assert found == (blob in model.present), f"{blob} with {len(content(blob))} bytes"
    walked = [stored async for stored in blobs.walk()]
    assert {stored.blob for stored in walked} == model.present
    assert all(stored.length == len(content(stored.blob)) for stored in walked)
    usage = await blobs.usage()
    assert (usage.blobs, usage.reserved) == (len(model.present), 0)


async def live(folder: Path, spare: Path, bursts: list[Any], seed: int) -> None:
    draw = random.Random(seed)
    model = Model()
    for operations, cut in [*bursts, ([], None)]:
        files = FaultyFiles(spare)
        if draw.random() < 0.3:
            (folder / "index").unlink(missing_ok=True)
        blobs = await DiskBlobs.start(folder, SETTINGS, files=files)
        try:
            await check(blobs, model)
            if cut is not None:
                files.cut_after(cut)
            await burst(blobs, model, operations)
            if cut is not None:
                files.power_cut(draw)
            elif not any(name == "compact" for name, _ in operations):
                await check(blobs, model)
        finally:
            await blobs.close()


@settings(max_examples=40)
@given(BURSTS, st.integers(0, 2**32))
def test_what_was_acknowledged_survives_power_cuts(bursts: list[Any], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spare = Path(folder) / "spare"
        spare.mkdir()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live(Path(folder) / "disk", spare, bursts, seed))
