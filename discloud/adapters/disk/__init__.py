"""Blobs on a disk: small ones in packs, large ones a file each."""

from discloud.adapters.disk.blobs import DiskBlobs
from discloud.adapters.disk.settings import DiskSettings

__all__ = ["DiskBlobs", "DiskSettings"]
