"""What an operator may decide about a disk; sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from discloud.core.model import KIB, MIB


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """``capacity``: bytes the blobs may take, 0 = the whole disk. ``full``: share of it, and of the disk, from which writes are refused.

    ``small``: blobs up to this length share packs, longer ones are a file each; ``pack_size``: length at which a new pack is begun.
    ``compact_at``: dead share of a pack from which compaction rewrites it. ``seal_delay``: seconds a seal may wait
    for company. ``checkpoint_every``: pack records after which the index is saved again, so the most that a start has to replay.
    ``threads``: reads that may wait for the disk at the same time. ``open_files``: large blobs kept open for the next reader.
    """

    capacity: int = 0
    full: float = 0.95
    small: int = 128 * KIB
    pack_size: int = 256 * MIB
    compact_at: float = 0.5
    seal_delay: float = 0.2
    checkpoint_every: int = 100_000
    threads: int = 8
    open_files: int = 256
