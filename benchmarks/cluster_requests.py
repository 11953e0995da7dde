"""Requests over HTTP through one of three roots on Cassandra, beside a root alone on SQLite."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import PUT_SCRIPT, Load, wrk
from benchmarks.measure import HOST, cpu_seconds
from benchmarks.servers import BenchMesh, mesh

SECONDS = 3
LISTED = 1000
SINGLE = 27170
"""First port of the root that is alone."""


@dataclass
class Case:
    """One kind of request to one root; what it took in each round, CPU in milliseconds of that root and of Cassandra."""

    name: str
    root: BenchMesh
    path: str
    connections: int
    script: str = ""
    took: list[tuple[Load, float, float]] = field(default_factory=list)

    def run(self, cassandra: list[int]) -> None:
        node = self.root.nodes[0]
        own, theirs = cpu_seconds([node.pid]), cpu_seconds(cassandra)
        url = f"http://{HOST}:{node.port}{self.path}"
        load = wrk(url, self.root.token, self.connections, SECONDS, "", self.script)
        count = load.rate * SECONDS / 1000
        self.took.append(
            (load, (cpu_seconds([node.pid]) - own) / count, (cpu_seconds(cassandra) - theirs) / count)
        )

    def line(self) -> str:
        def middle(value: Callable[[tuple[Load, float, float]], float]) -> float:
            return statistics.median(map(value, self.took))

        return (
            f"| {self.name} | {middle(lambda each: each[0].rate):,.0f} | {middle(lambda each: each[0].p50):.1f} "
            f"| {middle(lambda each: each[0].p99):.1f} | {middle(lambda each: each[1]):.2f} | {middle(lambda each: each[2]):.2f} |"
        )


def requests(folder: Path, rounds: int, environ: dict[str, str], cassandra: list[int]) -> None:
    """4 KiB GET and durable PUT, and pages of 1,000 keys."""
    with (
        mesh(folder / "cluster", 3, environ=environ, roots=3) as cluster,
        mesh(folder / "single", 1, first=SINGLE) as single,
    ):
        cases = []
        for name, root in (("Cassandra", cluster), ("SQLite", single)):
            version = fill(root)
            cases += [
                Case(f"GET 4 KiB by name, {name}", root, "/v1/files/files/one", 16),
                Case(f"GET 4 KiB by version, {name}", root, f"/v1/files/files/one?version={version}", 16),
                Case(f"durable PUT 4 KiB, {name}", root, "/", 32, PUT_SCRIPT),
                Case(f"list 1,000, {name}", root, "/v1/files/files?prefix=many/&delimiter=/&limit=1000", 4),
            ]
        for number in range(-1, rounds):
            shift = number % len(cases)
            for case in [*cases[shift:], *cases[:shift]]:
                case.run(cassandra if case.root is cluster else [])
                if number < 0:  # the first round warms up
                    case.took.clear()
    print(
        "\n| HTTP, one root asked | a second | p50 ms | p99 ms | CPU ms, root | CPU ms, Cassandra |\n|---|---|---|---|---|---|"
    )
    for case in cases:
        print(case.line(), flush=True)


def fill(root: BenchMesh) -> str:
    """An object, whose version is returned, and a folder of 1,000."""
    stored = root.api("PUT", "/v1/files/files/one?nodes=node1", data=os.urandom(4096))

    def put(number: int) -> None:
        root.api("PUT", f"/v1/files/files/many/{number:06}?copies=1&nodes=self", data=b"x")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, range(LISTED)))
    return str(stored["version"])
