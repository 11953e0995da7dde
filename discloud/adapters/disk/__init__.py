"""Blobs on a disk: small ones in packs, large ones a file each."""
