"""The border of the test mesh: near is at once, far is late and in order, cut is silent, broken is broken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.support.region_proxy import Border, Entry

HERE = ("127.0.0.1", 0)
DELAY = 0.15


@pytest.fixture
def border() -> Iterator[Border]:
    with Border(DELAY) as opened:
        opened.stands(os.getpid(), "us")
        yield opened


@contextmanager
def echo(stop_after: int | None = None) -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets, a connection after the other."""
    with closing(socket.create_server(HERE)) as listening:

        def serve() -> None:
            while True:
                try:
                    came, _ = listening.accept()
                except OSError:
                    return
                with came:
                    while data := came.recv(1 << 16):
                        came.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)


def entry(border: Border, target: tuple[str, int], region: str) -> tuple[str, int]:
    with closing(socket.create_server(HERE)) as probe:
        listen: tuple[str, int] = probe.getsockname()
    border.open(Entry(listen, target, region))
    return listen


def round_trip(sock: socket.socket, data: bytes) -> float:
    """Seconds until ``data`` came back whole."""
    began = time.monotonic()
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    got = bytearray()
    while len(got) < len(data):
        piece = sock.recv(1 << 16)
        assert piece, "it ended early"
        got += piece
    sender.join()
    assert got == data
    return time.monotonic() - began


@pytest.mark.parametrize(("region", "far"), [("us", False), ("eu", True)])
def test_only_what_crosses_a_border_is_late(border: Border, region: str, far: bool) -> None:
    with echo() as target, socket.create_connection(entry(border, target, region), 10) as sock:
        # the delay is a lower bound: how quick the near way is depends on the machine
        took = min(round_trip(sock, b"small") for _ in range(3))
        assert (took >= 2 * DELAY) is far


def test_many_bytes_are_late_once_and_in_order(border: Border) -> None:
    with echo() as target, socket.create_connection(entry(border, target, "eu"), 30) as sock:
        assert round_trip(sock, os.urandom(20 << 20)) >= 2 * DELAY


def test_the_region_is_that_of_the_asking_process(border: Border) -> None:
    ask = (
        "import socket,sys,time; sys.stdin.readline(); s=socket.create_connection(('127.0.0.1', {}));"
        "t=time.monotonic(); s.sendall(b'x'); s.recv(1); print(time.monotonic()-t)"
    )
    with echo() as target:
        listen = entry(border, target, "eu")
        took = {}
        for region in ("eu", "asia"):
            child = subprocess.Popen(
                [sys.executable, "-c", ask.format(listen[1])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            border.stands(child.pid, region)
            took[region] = float(child.communicate("go\n", 30)[0])
        assert took["asia"] >= 2 * DELAY > took["eu"]


def test_a_cut_is_silence_until_it_heals(border: Border) -> None:
    with echo() as target, socket.create_connection(entry(border, target, "eu"), 10) as sock:
        round_trip(sock, b"before")
        border.cut("eu", "asia")
        round_trip(sock, b"others are cut")
        for regions in (("eu", "us"), ("us",)):
            border.cut(*regions)
            sock.sendall(b"meanwhile")
            sock.settimeout(5 * DELAY)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            border.heal()
            sock.settimeout(10)
            assert sock.recv(100) == b"meanwhile"


def test_the_end_of_a_side_is_passed_on(border: Border) -> None:
    with echo() as target, socket.create_connection(entry(border, target, "eu"), 10) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b"last words"
        assert sock.recv(100) == b""


def test_nobody_behind_the_entry_is_a_broken_connection(border: Border) -> None:
    with closing(socket.create_server(HERE)) as probe:
        nobody = probe.getsockname()
    with (
        socket.create_connection(entry(border, nobody, "eu"), 10) as sock,
        pytest.raises(ConnectionResetError),
    ):
        sock.recv(1)
