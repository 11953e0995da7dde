"""A data folder knows whose it is; a failed first start is not in the way of the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from discloud.adapters.identity import Identity, load_identity, read_or_make_secret, save_identity
from discloud.core.model import NodeId
from discloud.errors import Conflict, Invalid


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    identity = Identity(NodeId("a"), "mesh", starts=3)
    save_identity(tmp_path, identity)
    assert load_identity(tmp_path) == identity


def test_empty_folders_of_a_failed_start_are_no_blobs(tmp_path: Path) -> None:
    for part in ("packs", "large/00", "temp"):
        (tmp_path / "blobs" / part).mkdir(parents=True)
    (tmp_path / "blobs" / "lock").touch()
    assert load_identity(tmp_path).cluster == ""


@pytest.mark.parametrize("part", ["packs", "large/00"])
def test_blobs_without_an_identity_are_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / "blobs" / part).mkdir(parents=True)
    (tmp_path / "blobs" / part / "x").touch()
    with pytest.raises(Conflict, match="holds blobs"):
        load_identity(tmp_path)


def test_a_newer_format_and_nonsense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text('{"node": "a", "format": 99}')
    with pytest.raises(Conflict, match="format 99"):
        load_identity(tmp_path)
    (tmp_path / "identity.json").write_text("nonsense")
    with pytest.raises(Invalid, match="cannot be read"):
        load_identity(tmp_path)


def test_a_secret_is_made_once_and_only_for_us(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    secret = read_or_make_secret(path)
    assert len(secret) >= 32
    assert read_or_make_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
