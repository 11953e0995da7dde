"""Who a data folder is: the identity file and the secrets beside it.

Invariant: a folder belongs to one mesh and one node for ever; a folder of another mesh or of a newer format is
refused, and nothing is written to it. Secrets are files of mode 0600 whose content is never logged.
"""

from __future__ import annotations

import json
import os
import secrets
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from discloud.core.model import NodeId
from discloud.errors import Conflict, Invalid

FORMAT = 1
"""Format of the data folder that this program writes."""
NAME = "identity.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """``cluster`` is the mesh's id, empty until the node has joined one; ``starts`` grows with every start."""

    node: NodeId
    cluster: str = ""
    format: int = FORMAT
    starts: int = 0


def load_identity(folder: Path) -> Identity:
    """The folder's identity, a new one where it has none yet (nothing is written). Raises: Conflict, Invalid."""
    path = folder / NAME
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        # a start that failed (a wrong secret, say) left empty folders: they are not in the way of the next one
        if any(
            each.is_file() for part in ("packs", "large") for each in (folder / "blobs" / part).rglob("*")
        ):
            raise Conflict(
                f"data folder {folder} holds blobs but no {NAME}",
                "restore the file from a backup of this folder, or start with an empty folder",
            ) from None
        return Identity(NodeId(str(uuid.uuid4())))
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read: {error}", "restore it from a backup of this folder") from error
    if not isinstance(found, dict) or found.get("format", 0) > FORMAT:
        raise Conflict(
            f"data folder {folder} has format {found.get('format') if isinstance(found, dict) else '?'}, "
            f"this program writes {FORMAT}",
            "start it with a newer discloud",
        )
    return Identity(
        NodeId(found["node"]), found.get("cluster", ""), found.get("format", FORMAT), found.get("starts", 0)
    )


def save_identity(folder: Path, identity: Identity) -> None:
    """Write the identity durably: a crash leaves the old or the new one."""
    _write(folder / NAME, json.dumps(asdict(identity), indent=1) + "\n", 0o644)


def read_or_make_secret(path: Path) -> str:
    """The secret in ``path``, made there if the file is missing."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        _write(path, secrets.token_urlsafe(32) + "\n", 0o600)
        return path.read_text().strip()


def read_secret(path: Path) -> str:
    """The secret in ``path``. Raises: Invalid."""
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Invalid(
            f"the mesh's secret cannot be read from {path}: {error.strerror}",
            "give the file that the root made: --secret-file FILE",
        ) from error


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
