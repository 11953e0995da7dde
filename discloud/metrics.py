"""Counters and gauges of this process, shown at /metrics in the Prometheus text format (0.0.4).

Increments are plain dictionary writes, cheap enough for the hot path; a worker thread may count too (the GIL
makes one increment atomic enough: at worst a count is lost, never a crash). Every metric is declared here, so that
docs/operations/metrics.md is generated from this file and a test compares them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable


class Counter:
    """A number that only grows, by label values."""

    kind = "counter"

    def __init__(self, name: str, doc: str, *labels: str) -> None:
        self.name, self.doc, self.labels = name, doc, labels
        self.values: dict[tuple[str, ...], float] = defaultdict(float)
        ALL.append(self)

    def add(self, amount: float = 1, *labels: str) -> None:
        """Count ``amount`` for these label values."""
        self.values[labels] += amount

    def samples(self) -> dict[tuple[str, ...], float]:
        """Values by label values; an unlabelled counter shows 0 from the start."""
        return dict(self.values) if self.values or self.labels else {(): 0.0}


class Gauge:
    """A number that is asked for when somebody looks."""

    kind = "gauge"

    def __init__(self, name: str, doc: str) -> None:
        self.name, self.doc, self.labels = name, doc, ()
        self.read: Callable[[], float] | None = None
        ALL.append(self)

    def samples(self) -> dict[tuple[str, ...], float]:
        """The value now, nothing while no source is set."""
        return {(): float(self.read())} if self.read else {}


ALL: list[Counter | Gauge] = []

REQUESTS = Counter("discloud_http_requests_total", "HTTP requests answered", "method", "status")
BYTES_IN = Counter("discloud_http_received_bytes_total", "Bytes of bodies received from clients")
BYTES_OUT = Counter("discloud_http_sent_bytes_total", "Bytes of bodies sent to clients", "source")
PEER_CALLS = Counter("discloud_peer_calls_total", "Calls to other nodes", "method", "outcome")
SLOW_HOLDERS = Counter(
    "discloud_slow_holders_total", "Holders given up for missing a transfer deadline", "transfer"
)
FAILOVERS = Counter("discloud_read_failovers_total", "Reads that went on with another holder", "reason")
HEDGES = Counter(
    "discloud_read_hedges_total",
    "Reads that asked a second holder because the first was late, by what came of it",
    "outcome",
)
STALE_READS = Counter(
    "discloud_stale_reads_total", "Reads answered as stale-possible, by where the head came from", "source"
)
CORRUPT_BLOCKS = Counter(
    "discloud_corrupt_blobs_total", "Blobs that failed verification and were quarantined"
)
REPAIRED = Counter("discloud_repaired_blobs_total", "Blobs copied again because a copy was missing")
COLLECTED = Counter("discloud_collected_versions_total", "Dead versions whose bytes gc removed")
SWEPT = Counter("discloud_swept_drafts_total", "Drafts given up by their writer that the sweeper aborted")
PULLED = Counter("discloud_pulled_blobs_total", "Copies pulled for mirror:all buckets")
IGNORED_BEATS = Counter(
    "discloud_ignored_redis_values_total", "Values under this mesh's names in Redis that no root of it wrote"
)
BLOBS = Gauge("discloud_blobs", "Blobs this node holds")
USED = Gauge("discloud_used_bytes", "Bytes of the blobs this node holds")
FREE = Gauge("discloud_disk_free_bytes", "Bytes its disk has left")
NODES_ALIVE = Gauge("discloud_nodes_alive", "Nodes this node sees alive")
OPEN_CONNECTIONS = Gauge("discloud_http_connections", "Client connections open now")


def render() -> str:
    """Everything in the text format, ready to be sent."""
    lines = []
    for metric in ALL:
        lines += [f"# HELP {metric.name} {metric.doc}", f"# TYPE {metric.name} {metric.kind}"]
        for labels, value in metric.samples().items():
            pairs = ",".join(
                f'{name}="{_escape(label)}"' for name, label in zip(metric.labels, labels, strict=False)
            )
            lines.append(f"{metric.name}{{{pairs}}} {value:g}" if pairs else f"{metric.name} {value:g}")
    return "\n".join(lines) + "\n"


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render_reference() -> str:
    """docs/operations/metrics.md: every metric with its kind, labels and meaning."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.doc} |"
        for metric in ALL
    ]
    return "\n".join([REFERENCE, *rows, ""])


REFERENCE = """# Metrics

`GET /metrics` on every node, Prometheus text format, with the bearer token. Each node counts what it does itself; gauges are as of
its last heartbeat. This page is generated from `discloud/metrics.py`.

| name | kind | labels | meaning |
|---|---|---|---|"""
