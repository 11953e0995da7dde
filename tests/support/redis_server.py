"""A Redis of a test's own on a free port, keeping nothing on disk, which the test may pause, kill, start again and flush."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory

from tests.support.engine import REDIS_IMAGE, ServerContainer, require_engine
from tests.support.server_process import Server, ServerProcess, first_of, free_port, program, wait_ready

HOST = "127.0.0.1"


@dataclass
class RedisServer:
    """One running Redis. What is killed and started again is empty and listens on the same port."""

    host: str
    port: int
    server: Server

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Start it and come back when it answers."""
        self.server.start()
        wait_ready(self.server, self._answers, 20, "an answer of Redis")

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nobody answers."""
        self.server.pause()

    def resume(self) -> None:
        """Let a paused one go on."""
        self.server.resume()

    def kill(self) -> None:
        """End it; all that it held is lost."""
        self.server.kill()

    def flush(self) -> None:
        """Remove all keys."""
        assert self.command("FLUSHALL") == b"+OK\r\n"

    def command(self, *words: str) -> bytes:
        """The first bytes of the answer to one command, such as ``command("CONFIG", "SET", "maxmemory", "2mb")``."""
        request = b"*%d\r\n" % len(words)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words)
        with create_connection((self.host, self.port), timeout=10) as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def _answers(self) -> bool:
        return self.command("PING") == b"+PONG\r\n"


def redis_server() -> AbstractContextManager[RedisServer]:
    """A container, else a local process; raises NotHere where neither can be."""
    return first_of(container_redis, local_redis)


@contextmanager
def local_redis() -> Iterator[RedisServer]:
    """A ``redis-server`` process; raises NotHere where there is none."""
    name = program("redis-server")
    with _redis(lambda folder, command: ServerProcess([name, *command], folder / "log")) as redis:
        yield redis


@contextmanager
def container_redis() -> Iterator[RedisServer]:
    """A container; raises NotHere where no Docker engine gives one."""
    require_engine()
    with _redis(
        lambda folder, command: ServerContainer(REDIS_IMAGE, ["redis-server", *command], folder)
    ) as redis:
        yield redis


@contextmanager
def _redis(server: Callable[[Path, list[str]], Server]) -> Iterator[RedisServer]:
    port = free_port([HOST])
    with TemporaryDirectory(prefix="discloud-redis-") as folder:
        command = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        redis = RedisServer(HOST, port, server(Path(folder), command))
        with closing(redis.server):
            redis.start()
            yield redis
