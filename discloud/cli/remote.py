"""BUCKET/KEY: how objects are named on the command line and in the API's paths."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import click

from discloud.cli.output import told
from discloud.core.keys import check_bucket_name, check_key, encode_key
from discloud.errors import DiscloudError


@dataclass(frozen=True, slots=True)
class Remote:
    """An object, a folder of objects (the key ends in ``/``) or a bucket (the key is empty)."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    @property
    def path(self) -> str:
        """Its path in the API, percent-encoded."""
        return f"/v1/files/{self.bucket}/{encode_key(check_key(self.key))}"

    @property
    def file_name(self) -> str:
        """The last part of the key, the bucket's name when there is none."""
        return self.key.rstrip("/").rpartition("/")[2] or self.bucket

    @property
    def is_folder(self) -> bool:
        """True where only names below it can be objects: a bucket, or a key that ends in a slash."""
        return not self.key or self.key.endswith("/")

    @property
    def folder(self) -> Remote:
        """The same, read as the folder of that name."""
        return self if self.is_folder else replace(self, key=f"{self.key}/")

    def __truediv__(self, below: str) -> Remote:
        """The object ``below`` this folder."""
        return replace(self, key=self.folder.key + below)


def parse_remote(text: str) -> Remote:
    """``bucket``, ``bucket/`` or ``bucket/key``. Raises: BadBucketName, BadKey."""
    bucket, _, key = text.partition("/")
    check_bucket_name(bucket)
    return Remote(bucket, check_key(key) if key else "")


class RemoteType(click.ParamType[Remote]):
    """An argument BUCKET/KEY; ``needs_key`` refuses a bucket or a folder."""

    name = "bucket/key"

    def __init__(self, *, needs_key: bool = False) -> None:
        self._needs_key = needs_key

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Remote:
        """The argument as a Remote; a wrong one ends the command with exit code 2."""
        if isinstance(value, Remote):
            return value
        try:
            remote = parse_remote(value)
        except DiscloudError as error:
            self.fail(_local(value) or told(error), param, ctx)
        if self._needs_key and not remote.key:
            bucket = f"{value!r} names a bucket, not an object; write it like {remote.bucket}/name"
            self.fail(_local(value) or bucket, param, ctx)
        return remote


def _local(text: str) -> str:
    """What to say to somebody who named something of this machine, "" to everybody else."""
    if not text or not os.path.lexists(text):
        return ""
    return f"{text!r} is on this machine and not in the mesh; store it with put, or name it like BUCKET/KEY"


ANY = RemoteType()
"""A bucket, a folder or an object."""
OBJECT = RemoteType(needs_key=True)
"""An object."""
