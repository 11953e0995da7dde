"""What all benchmarks share: CPU of a process tree, plain-socket clients that cost next to nothing, interleaved rounds.

Client side costs are kept small on purpose: received bytes are dropped in the kernel (MSG_TRUNC), sent bytes come from a
file by sendfile, small requests by wrk. Servers' CPU is read from /proc.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1 << 30
TICK = os.sysconf("SC_CLK_TCK")
HOST = "127.0.0.1"


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system seconds that the processes have used, their waited-for children included."""
    total = 0
    for pid in pids:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(value) for value in values[11:15])
    return total / TICK


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, and itself."""
    text = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [pid, *map(int, text.split())]


@dataclass
class Series:
    """Figures of one case over all rounds: value (higher is better, unless said) and CPU per unit."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu) if self.cpu else float("nan")

    def line(self, beside: Series | None = None) -> str:
        ratio = f"{self.median / beside.median:8.2f}" if beside else "       -"
        return f"| {self.name} | {self.median:,.0f} {self.unit} | {ratio} | {self.cpu_median:.3f} |"


def interleave(rounds: int, cases: Sequence[tuple[Series, Callable[[], tuple[float, float]]]]) -> None:
    """Run every case once per round, the order rotated, so that a busy moment of the machine hits all alike."""
    for number in range(rounds):
        shift = number % len(cases)
        for series, run in [*cases[shift:], *cases[:shift]]:
            value, cpu = run()
            series.values.append(value)
            series.cpu.append(cpu)


def request_head(method: str, path: str, token: str = "", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """The answer's head and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        assert more, f"closed in the head: {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def download(port: int, path: str, size: int, token: str = "") -> float:
    """Seconds for one GET of ``size`` bytes; the bytes are dropped in the kernel."""
    with socket.create_connection((HOST, port)) as sock:
        started = time.perf_counter()
        sock.sendall(request_head("GET", path, token))
        head, rest = read_head(sock)
        assert b" 200 " in head.partition(b"\r\n")[0], head
        left = size - len(rest)
        buffer = bytearray(4 << 20)
        while left:
            # With MSG_TRUNC Linux drops TCP bytes without copying them; the buffer's length is how many.
            got = sock.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
            assert got, "cut"
            left -= got
        return time.perf_counter() - started


def upload(port: int, path: str, source: Path, token: str) -> float:
    """Seconds for one PUT of a file, sent by sendfile, until the answer is here."""
    size = source.stat().st_size
    with socket.create_connection((HOST, port)) as sock, source.open("rb") as file:
        started = time.perf_counter()
        sock.sendall(request_head("PUT", path, token, Content_Length=str(size)))
        sent = 0
        while sent < size:
            sent += os.sendfile(sock.fileno(), file.fileno(), sent, size - sent)
        head, _ = read_head(sock)
        assert b" 201 " in head or b" 200 " in head, head
        return time.perf_counter() - started
