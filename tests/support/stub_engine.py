"""A stand-in for a Docker engine on a unix socket: its containers are local processes with the command that it was given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.server_process import ServerProcess


class StubEngine(ThreadingMixIn, UnixStreamServer):
    """``asked`` has every request but questions; with ``images`` off every pull fails as without a registry."""

    daemon_threads = True

    def __init__(self, folder: Path, images: bool = True) -> None:
        self.folder, self.images = folder, images
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.containers: dict[str, ServerProcess] = {}
        self.pulled: set[str] = set()
        super().__init__(str(folder / "docker.sock"), Handler)

    @property
    def address(self) -> str:
        return f"unix://{self.server_address!s}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubEngine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        what = self.words()
        match what:
            case ["_ping"]:
                self.answer(200, b"OK")
            case ["version"]:
                self.answer(200, {"ApiVersion": "1.43", "MinAPIVersion": "1.24"})
            case ["images", *name, "json"]:
                known = "/".join(name) in self.server.pulled
                self.answer(*((200, {"Id": name[0]}) if known else (404, {"message": "no such image"})))
            case ["containers", name, "json"]:
                state = "running" if self.server.containers[name].running else "exited"
                self.answer(200, {"Id": name, "State": {"Status": state}, "Config": {"Tty": True}})
            case ["containers", name, "logs"]:
                self.answer(200, self.server.containers[name].output().encode())
            case _:
                self.answer(404, {"message": f"not in this stub: {self.path}"})

    def do_POST(self) -> None:
        what, body = self.words(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(" ".join(what[::-1] if what[0] == "containers" else what).split()[0])
        match what:
            case ["images", "create"]:
                self.pull()
            case ["containers", "create"]:
                self.create(json.loads(body))
            case ["containers", name, action] if action in ACTIONS:
                ACTIONS[action](self.server.containers[name])
                self.answer(*((200, {"StatusCode": 137}) if action == "wait" else (204, b"")))
            case _:
                self.answer(404, {"message": f"not in this stub: {self.path}"})

    def do_DELETE(self) -> None:
        self.server.asked.append("remove")
        self.server.containers[self.words()[1]].kill()
        self.answer(204, b"")

    def words(self) -> list[str]:
        """The path without its version."""
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        return words[1:] if words[0].startswith("v1.") else words

    def pull(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if not self.server.images:
            self.answer(500, {"message": "no route to the registry"})
            return
        self.server.pulled.add(f"{query['fromImage'][0]}:{query['tag'][0]}")
        self.answer(200, {"status": "Pull complete"})

    def create(self, body: dict[str, Any]) -> None:
        name = f"{len(self.server.created):064x}"
        self.server.created.append(body)
        command = [*body["Entrypoint"], *body["Cmd"]]
        self.server.containers[name] = ServerProcess(command, self.server.folder / f"{name}.log")
        self.answer(201, {"Id": name, "Warnings": []})

    def answer(self, status: int, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if data else "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _wait(container: ServerProcess) -> None:
    assert not container.running


ACTIONS: dict[str, Callable[[ServerProcess], None]] = {
    "start": ServerProcess.start,
    "pause": ServerProcess.pause,
    "unpause": ServerProcess.resume,
    "kill": ServerProcess.kill,
    "wait": _wait,
}


@contextmanager
def stub_engine(folder: Path, images: bool = True) -> Iterator[StubEngine]:
    """The engine, answering."""
    with StubEngine(folder, images) as engine:
        thread = Thread(target=engine.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield engine
        finally:
            engine.shutdown()
            thread.join()
            for each in engine.containers.values():
                each.kill()
