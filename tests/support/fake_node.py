"""A stand-in for ``discloud node``: serves what ``discloud up`` asks for, in a twentieth of the time.

Run as ``python -m tests.support.fake_node node FLAGS``. FAKE_NODE_DIES names a container that ends at once,
FAKE_NODE_DEAF one that ignores SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Path
    token: str

    def do_GET(self) -> None:
        others = [each.name for each in self.bucket.parent.parent.iterdir() if each.is_dir()]
        nodes = {"nodes": [{"name": name, "state": "alive"} for name in others]}
        self.answer(200 if self.path in {"/readyz", "/v1/nodes"} else 404, json.dumps(nodes))

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {self.token}":
            self.answer(401)
        elif self.bucket.exists():
            self.answer(409)
        else:
            self.bucket.touch()
            self.answer(201)

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


def main() -> None:
    assert sys.argv[1] == "node"
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    print(f"starting {sorted(flags)}", flush=True)
    name = flags["--name"]
    if os.environ.get("FAKE_NODE_DIES") == name:
        sys.exit("discloud: error: the disk is on fire. call for help")
    if os.environ.get("FAKE_NODE_DEAF") == name:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    data = Path(flags["--data"])
    data.mkdir(exist_ok=True)
    Handler.bucket = data / "bucket"
    assert Path(flags["--secret-file"]).read_text().strip()
    assert "DISCLOUD_NAME" not in os.environ
    assert (
        ("--roots" in flags) == (flags["--role"] == "ordinary") == ("DISCLOUD_TOKEN_FILE" not in os.environ)
    )
    Handler.token = Path(os.environ.get("DISCLOUD_TOKEN_FILE", "/dev/null")).read_text().strip()
    with ThreadingHTTPServer((flags["--listen"], int(flags["--port"])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
