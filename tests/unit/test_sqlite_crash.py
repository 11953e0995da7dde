"""What was acknowledged is there after the process was killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from discloud.adapters.sqlite import SqliteMetadata
from discloud.core.model import Key, State, VersionId
from discloud.errors import NoSuchVersion
from tests.contract.metadata_objects import ANY, BUCKET, draft

WRITER = """
import asyncio, sys
from pathlib import Path
from discloud.adapters.sqlite import SqliteMetadata
from tests.contract.metadata_objects import ANY, BUCKET, draft, put_of

async def write(metadata, number):
    while True:
        version = draft(f"k{number}")
        if number % 2:
            await metadata.versions.put(version, ANY)
        else:
            await metadata.versions.begin(version)
            await metadata.versions.commit(put_of(version), ANY)
        print(version.key, version.id, flush=True)

async def main():
    metadata = await SqliteMetadata.open(Path(sys.argv[1]))
    await metadata.buckets.create(BUCKET)
    await asyncio.gather(*(write(metadata, number) for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("enough", [20, 400])
async def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, enough: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WRITER,
        str(tmp_path / "m.db"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    acknowledged: list[bytes] = []
    while len(acknowledged) < enough:
        line = await process.stdout.readline()
        assert line, "the writer ended by itself"
        acknowledged.append(line)
    process.kill()
    acknowledged += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()

    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        last: dict[str, str] = {}
        for line in acknowledged:
            if not line.endswith(b"\n"):
                continue  # cut while it was printed
            key, version = line.decode().split()
            row = await metadata.versions.find(BUCKET.id, Key(key), VersionId(version))
            assert row.state in {State.COMMITTED, State.REPLACED}
            last[key] = version
        for key, version in last.items():
            head = await metadata.versions.get(BUCKET.id, Key(key))
            row = await metadata.versions.find(BUCKET.id, Key(key), VersionId(version))
            assert head.seq >= row.seq
        page = await metadata.versions.list_keys(BUCKET.id, "", "", "", 100)
        assert {each.key for each in page.versions} >= set(last)
        with pytest.raises(NoSuchVersion):
            await metadata.versions.find(BUCKET.id, Key("k0"), draft("k0").id)
        await metadata.versions.put(draft("k0"), ANY)
