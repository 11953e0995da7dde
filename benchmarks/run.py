"""``make bench``: the figures of docs/performance.md, taken in interleaved rounds beside nginx and dd.

    python -m benchmarks.run [--rounds 5] [--only large,put,small,memory,scale,cluster] [--folder DIR]

Ratios are what counts; absolute figures are this machine's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cluster import cluster
from benchmarks.load import PUT_SCRIPT, wrk
from benchmarks.measure import (
    GIB,
    HOST,
    Series,
    cpu_seconds,
    download,
    interleave,
    upload,
)
from benchmarks.memory import idle_connections, paced
from benchmarks.scale import listing, start_with_blobs
from benchmarks.servers import BenchMesh, mesh, nginx

LARGE = 512 << 20
MIB = 1 << 20


def random_file(path: Path, size: int) -> Path:
    with path.open("wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))
    return path


def measured(pids: list[int], bytes_moved: int, run: Callable[[], float]) -> tuple[float, float]:
    """MB/s and CPU seconds per GiB of one transfer."""
    before = cpu_seconds(pids)
    seconds = run()
    return bytes_moved / seconds / 1e6, (cpu_seconds(pids) - before) / bytes_moved * GIB


def large(folder: Path, rounds: int) -> None:
    """GET of 512 MiB, hot: nginx sendfile, discloud verify=window and always, and through a node that holds nothing."""
    source = random_file(folder / "large", LARGE)
    with nginx(folder / "nginx") as web, mesh(folder / "mesh", 2) as running:
        shutil.copy(source, web.www / "large")
        running.api("PUT", "/v1/buckets/window", {"verify": "window"})
        for bucket in ("files", "window"):
            upload(running.nodes[0].port, f"/v1/files/{bucket}/large?nodes=node1", source, running.token)
        root, other = running.nodes

        def get(port: int, path: str, pids: list[int]) -> Callable[[], tuple[float, float]]:
            return lambda: measured(pids, LARGE, lambda: download(port, path, LARGE, running.token))

        always, window = "/v1/files/files/large", "/v1/files/window/large"
        cases = [
            (Series("nginx sendfile", "MB/s"), get(web.port, "/large", web.pids)),
            (Series("GET verify=window", "MB/s"), get(root.port, window, [root.pid])),
            (Series("GET verify=always", "MB/s"), get(root.port, always, [root.pid])),
            (
                Series("through a non-holder (CPU of the asked node)", "MB/s"),
                get(other.port, window, [other.pid]),
            ),
        ]
        for _, run in cases:
            run()
        interleave(rounds, cases)
        head("GET 512 MiB hot, one connection", "vs nginx", "CPU s/GiB")
        for series, _ in cases:
            print(series.line(cases[0][0]))
        print(f"  non-holder vs own direct: {cases[3][0].median / cases[1][0].median:.2f}")


def put(folder: Path, rounds: int) -> None:
    """Durable PUT of 1 GiB, copies=1 beside dd conv=fdatasync, and copies=3 on three nodes of one disk."""
    source = random_file(folder / "source", GIB)

    def dd() -> tuple[float, float]:
        target = folder / "dd.out"
        target.unlink(missing_ok=True)
        started = time.perf_counter()
        subprocess.run(
            ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fdatasync"], check=True, capture_output=True
        )
        seconds = time.perf_counter() - started
        target.unlink()
        return GIB / seconds / 1e6, 0.0

    with mesh(
        folder / "mesh", 3, environ={"DISCLOUD_PERIODS_GC": "1", "DISCLOUD_PERIODS_GC_DELAY": "0"}
    ) as running:

        def store(copies: int) -> Callable[[], tuple[float, float]]:
            path = (
                f"/v1/files/files/put{copies}?copies={copies}&nodes=self"
                if copies == 1
                else "/v1/files/files/put3?copies=3&ack=all"
            )

            def once() -> tuple[float, float]:
                result = measured(
                    running.pids, GIB, lambda: upload(running.nodes[0].port, path, source, running.token)
                )
                running.api("DELETE", path.partition("?")[0])
                wait_empty(running)
                return result

            return once

        cases = [
            (Series("dd conv=fdatasync", "MB/s"), dd),
            (Series("PUT 1 GiB copies=1", "MB/s"), store(1)),
            (Series("PUT 1 GiB copies=3, all nodes", "MB/s"), store(3)),
        ]
        interleave(rounds, cases)
        head("durable PUT 1 GiB", "vs dd", "CPU s/GiB")
        for series, _ in cases:
            print(series.line(cases[0][0]))


def wait_empty(running: BenchMesh) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if all(node["blobs"] == 0 for node in running.api("GET", "/v1/nodes")["nodes"]):
            return
        time.sleep(0.2)


def small(folder: Path, rounds: int, seconds: int = 5) -> None:
    """4 KiB: durable PUT by name, GET by name with the server on one core, and through a node that holds nothing."""
    with nginx(folder / "nginx", pin="0") as web, mesh(folder / "mesh", 2, pin="0") as running:
        (web.www / "small").write_bytes(os.urandom(4096))
        root, other = running.nodes
        running.api("PUT", "/v1/files/files/one?nodes=node1", data=os.urandom(4096))

        def get(port: int, path: str, pids: list[int]) -> Callable[[], tuple[float, float]]:
            def once() -> tuple[float, float]:
                before = cpu_seconds(pids)
                rate = wrk(f"http://{HOST}:{port}{path}", running.token, 16, seconds, "1").rate
                return rate, (cpu_seconds(pids) - before) / (rate * seconds) * 1000

            return once

        cases = [
            (Series("nginx static", "req/s"), get(web.port, "/small", web.pids)),
            (Series("GET 4 KiB by name, direct", "req/s"), get(root.port, "/v1/files/files/one", [root.pid])),
            (
                Series("GET 4 KiB through a non-holder (CPU of both)", "req/s"),
                get(other.port, "/v1/files/files/one", running.pids),
            ),
        ]
        interleave(rounds, cases)
        head("GET 4 KiB hot, servers on one core", "vs nginx", "CPU ms/request")
        for series, _ in cases:
            print(series.line(cases[0][0]))
        print(f"  non-holder vs own direct: {cases[2][0].median / cases[1][0].median:.2f}")
    with mesh(folder / "mesh-put", 1) as running:
        pid = running.nodes[0].pid

        def store() -> tuple[float, float]:
            before = cpu_seconds([pid])
            url = f"http://{HOST}:{running.nodes[0].port}/"
            rate = wrk(url, running.token, 32, seconds, "", PUT_SCRIPT).rate
            return rate, (cpu_seconds([pid]) - before) / (rate * seconds) * 1000

        puts = Series("durable PUT 4 KiB by name, 32 connections", "req/s")
        interleave(rounds, [(puts, store)])
        head("PUT 4 KiB durable", "-", "CPU ms/request")
        print(puts.line())


def head(title: str, ratio: str, cpu: str) -> None:
    print(f"\n### {title}\n\n| case | median | {ratio} | {cpu} |\n|---|---|---|---|")


def memory(folder: Path, _rounds: int) -> None:
    """64 paced uploads and 64 paced downloads, then cut; 5,000 idle connections."""
    head("memory", "-", "-")
    paced(folder)
    idle_connections(folder)


def scale(folder: Path, _rounds: int) -> None:
    """Start with 100,000 blobs; a page of 1,000 keys out of 1,000,000."""
    head("scale", "-", "-")
    start_with_blobs(folder)
    listing(folder)


CASES = {
    "large": large,
    "put": put,
    "small": small,
    "memory": memory,
    "scale": scale,
    "cluster": cluster,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for name in options.only.split(","):
            folder = Path(temporary) / name
            folder.mkdir()
            CASES[name](folder, options.rounds)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
