"""Where the kernel has no sendfile of ours, no splice, no fdatasync and no fallocate (macOS), a node does the same by copying."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import errno, os, socket, sys
sys.platform = "darwin"
for module, names in (
    (os, ("fdatasync", "posix_fallocate", "splice", "sendfile", "RWF_NOWAIT")),
    (errno, ("EUCLEAN",)),
    (socket, ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
sys.platform = "linux"  # the libraries below are those of this system
import aiohttp, msgpack, uvloop, yarl
sys.platform = "darwin"

import io
from pathlib import Path
from discloud.config import load
from discloud.node import started

async def main(folder):
    config = load(None, {}, {"node.data": folder, "node.port": "0", "node.name": "mac"})
    async with started(config) as node:
        token = (Path(folder) / "token").read_text().strip()
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            url = f"http://{node.api}/v1"
            async with session.put(f"{url}/buckets/files", json={}) as answer:
                assert answer.status == 201, await answer.text()
            for size in (0, 4096, 3_000_000):
                data = os.urandom(size)
                async with session.put(f"{url}/files/files/k", data=io.BytesIO(data)) as answer:
                    assert answer.status in (200, 201), await answer.text()
                async with session.get(f"{url}/files/files/k") as answer:
                    assert await answer.read() == data
    print("same")

uvloop.run(main(sys.argv[1]))
"""


def test_a_node_works_without_what_only_linux_has(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == "same\n", found.stderr[-3000:]
