"""Disks that fill up: refused with 507 or stored elsewhere, nothing acknowledged is lost, and freed room is used again."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from pathlib import Path

import pytest

from tests.support.processes import Mesh, local_mesh, until

KIB = 1 << 10
CAPACITY = 40 << 20
SETTINGS = {
    "DISCLOUD_DISK_CAPACITY": str(CAPACITY),
    "DISCLOUD_DISK_PACK_SIZE": "4 MiB",
    "DISCLOUD_PERIODS_COMPACT": "0.5",
}
pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


async def write_until_full(mesh: Mesh, size: int, query: str) -> dict[str, str]:
    """SHA-256 by key of what was acknowledged; every other answer must be a 507."""
    stored: dict[str, str] = {}
    refused = 0

    async def writer(number: int) -> None:
        nonlocal refused
        while refused < 20:
            data = os.urandom(size)
            key = f"{size}/{number}-{len(stored)}-{refused}"
            url = f"{mesh.nodes[number % 3].url}/v1/files/files/{key}?{query}"
            async with mesh.session.put(url, data=io.BytesIO(data)) as answer:
                text = await answer.text()
                if answer.status == 201:
                    stored[key] = hashlib.sha256(data).hexdigest()
                    continue
                assert answer.status == 507, text
                refused += 1

    async with asyncio.TaskGroup() as writers:
        for number in range(6):
            writers.create_task(writer(number))
    return stored


@pytest.mark.parametrize(
    ("size", "query"), [(60 * KIB, "copies=2"), (300 * KIB, "copies=1"), (1500 * KIB, "copies=1")]
)
async def test_full_disks_refuse_and_go_on_when_there_is_room(tmp_path: Path, size: int, query: str) -> None:
    async with local_mesh(tmp_path, 3, SETTINGS) as mesh:
        stored = await write_until_full(mesh, size, query)
        copies = int(query[-1])
        assert len(stored) * size * copies > 3 * CAPACITY * 0.6, "other holders take what a full one refuses"
        for number, (key, digest) in enumerate(stored.items()):
            data = await mesh.get(mesh.nodes[number % 3], f"/v1/files/files/{key}")
            assert hashlib.sha256(data).hexdigest() == digest
        keys = list(stored)
        for key in keys[::2]:
            assert await mesh.status("DELETE", mesh.root, f"/v1/files/files/{key}") == 204

        async def room_again() -> bool:
            body = io.BytesIO(os.urandom(size))
            return await mesh.status("PUT", mesh.root, f"/v1/files/files/again?{query}", data=body) == 201

        await until(room_again, 60, "room after deletes")
        for key in keys[1::2]:
            data = await mesh.get(mesh.nodes[1], f"/v1/files/files/{key}")
            assert hashlib.sha256(data).hexdigest() == stored[key]
