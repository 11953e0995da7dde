"""Servers as containers of a Docker engine on this machine, by testcontainers.

A container gets the network and the user of the test, and the server's folder under the same path: so it is the same server
with the same command as a local process, only that its program is the image's. Ryuk, testcontainers' reaper, ends what a killed run
leaves behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_UNIX, socket

import requests
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host

from tests.support.server_process import NotHere

REDIS_IMAGE, CASSANDRA_IMAGE = "redis:7.4.6", "cassandra:5.0.6"
FAILURES = (DockerException, requests.RequestException)


def require_engine() -> None:
    """Raises NotHere where no engine of this machine answers."""
    address = get_docker_host() or "unix:///var/run/docker.sock"
    if not address.startswith("unix://"):
        raise NotHere(f"the Docker engine at {address} is on another machine")
    try:
        with closing(socket(AF_UNIX)) as connection:
            connection.connect(address.removeprefix("unix://"))
        with closing(DockerClient(timeout=10).client) as client:
            client.ping()
    except (*FAILURES, OSError) as reason:
        raise NotHere(f"no Docker engine answers at {address} ({reason})") from reason


@dataclass
class ServerContainer:
    """A container that is started, paused and killed as a ServerProcess is."""

    image: str
    command: Sequence[str]
    folder: Path
    container: DockerContainer = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is asked of the engine yet."""
        user = f"{os.getuid()}:{os.getgid()}"
        program, *arguments = self.command
        self.container = (
            DockerContainer(self.image)
            .with_command(list(arguments))
            .with_kwargs(entrypoint=[program], network="host", user=user)
            .with_volume_mapping(str(self.folder), str(self.folder), "rw")
        )

    @property
    def running(self) -> bool:
        if self.container._container is None:
            return False
        self.container.reload()
        return self.container.status in {"running", "paused"}

    def start(self) -> None:
        """Make the container at first, start it again later; raises NotHere where the engine refuses."""
        try:
            if self.container._container is None:
                self.container.start()
            else:
                self.container.get_wrapped_container().start()
        except FAILURES as reason:
            raise NotHere(f"the Docker engine does not start {self.image} ({reason})") from reason

    def pause(self) -> None:
        """Stop it in its tracks."""
        self.container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let a paused one go on."""
        self.container.get_wrapped_container().unpause()

    def kill(self) -> None:
        """End it without a word; nothing happens where it does not run."""
        if self.running:
            self.container.get_wrapped_container().kill()
            self.container.get_wrapped_container().wait()

    def close(self) -> None:
        """End and remove it."""
        self.container.stop()

    def output(self) -> str:
        """All that it has printed."""
        if self.container._container is None:
            return ""
        return b"".join(self.container.get_logs()).decode(errors="replace")
