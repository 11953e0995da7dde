"""The tables of the queues, the registry and the leases; ``schema`` makes them.

``intents`` and ``all_log`` are cut by minute, and each has a second table that says which minutes there are: a reader
asks for those only, however long the mesh stood still. Rows of ``intents`` and ``blobs_by_node`` are hints (what is true
is said by the row that they point to), so one that comes back after ``gc_grace_seconds`` costs one look.
"""

from __future__ import annotations

_CHURNED = "gc_grace_seconds = 3600 AND compaction = {'class': 'LeveledCompactionStrategy'}"
"""Rows that live for a while. Not by time windows: a row and its deletion would lie in different ones and never meet."""

QUEUE_TABLES: tuple[str, ...] = (
    # Work by the minute in which it is due (or was noted, if later). `kind`: intents.Kind; `tag`: nil, or random where the
    # same work may be noted anew; `body`: the rest of intents.Intent.
    f"""CREATE TABLE IF NOT EXISTS intents (
        kind tinyint, shard smallint, minute int, due double, version uuid, tag uuid, body blob,
        PRIMARY KEY ((kind, shard, minute), due, version, tag)) WITH {_CHURNED}""",
    # Which partitions of intents may hold rows; all others are empty and stay so. `low`: nothing is left below.
    f"""CREATE TABLE IF NOT EXISTS intent_minutes (
        kind tinyint, minute int, shard smallint, low int static,
        PRIMARY KEY ((kind), minute, shard)) WITH {_CHURNED}""",
    # Which versions may have a blob on a node: never too few, the version's row is the truth.
    f"""CREATE TABLE IF NOT EXISTS blobs_by_node (
        node uuid, shard smallint, version uuid, bucket uuid, key blob,
        PRIMARY KEY ((node, shard), version)) WITH {_CHURNED}""",
    # The repairs of a blob; the one of the highest `since` counts. Intents say when to look.
    f"""CREATE TABLE IF NOT EXISTS repair_queue (
        blob text, since double, body blob, PRIMARY KEY ((blob), since)) WITH {_CHURNED}""",
    # What every node shall hold or drop, never removed. `number`: micros.
    """CREATE TABLE IF NOT EXISTS all_log (
        minute int, number bigint, version uuid, removed boolean, bucket uuid, key blob,
        PRIMARY KEY ((minute), number, version, removed))""",
    # Which minutes of all_log there are; `log` is 0.
    """CREATE TABLE IF NOT EXISTS all_log_minutes (
        log tinyint, minute int, PRIMARY KEY ((log), minute))""",
    # ---- registry, by lightweight transactions; rows of buckets stay for ever: an id is never given twice
    """CREATE TABLE IF NOT EXISTS buckets (id text PRIMARY KEY, rev int, closing uuid, gone boolean, body blob)""",
    """CREATE TABLE IF NOT EXISTS bucket_names (name text PRIMARY KEY, id text)""",
    """CREATE TABLE IF NOT EXISTS accounts (id text PRIMARY KEY, digest blob, body blob)""",
    """CREATE TABLE IF NOT EXISTS account_digests (digest blob PRIMARY KEY, id text)""",
    """CREATE TABLE IF NOT EXISTS nodes (id text PRIMARY KEY, nonce text, at double, body blob)""",
    """CREATE TABLE IF NOT EXISTS node_names (name text PRIMARY KEY, id text, at double)""",
    # `owner` ends by its TTL, `epoch` stays.
    """CREATE TABLE IF NOT EXISTS leases (name text PRIMARY KEY, owner text, epoch int)""",
)
"""For ``schema.TABLES``."""
