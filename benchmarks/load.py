"""Many small requests by wrk: how many a second, and how long they take."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

PUT_SCRIPT = """
local body = string.rep("x", 4096)
local number = 0
local thread_id = 0
function init(args) math.randomseed(os.time()) thread_id = math.random(1, 1000000000) end
function request()
  number = number + 1
  return wrk.format("PUT", "/v1/files/files/small/" .. thread_id .. "/" .. number .. "?copies=1&nodes=self", wrk.headers, body)
end
"""
DONE_SCRIPT = """
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("ERRORS %d", e.connect + e.read + e.write + e.status + e.timeout))
  print(string.format("LATENCY %d %d", latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second; milliseconds within which half of them, and 99 of 100, were answered."""

    rate: float
    p50: float
    p99: float


def wrk(url: str, token: str, connections: int, seconds: int, pin: str, script: str = "") -> Load:
    """What so many connections get in so many seconds; every failed request is an error of the benchmark."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script + DONE_SCRIPT)
        lua.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", lua.name]
        if token:
            command += ["-H", f"Authorization: Bearer {token}"]
        output = subprocess.run(
            [*(["taskset", "-c", pin] if pin else []), *command, url],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    errors = re.search(r"ERRORS (\d+)", output)
    assert errors and errors[1] == "0", output
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    latency = re.search(r"LATENCY (\d+) (\d+)", output)
    assert rate and latency, output
    return Load(float(rate[1]), int(latency[1]) / 1000, int(latency[2]) / 1000)
