"""Every change of a head, as one function over the rows of a transaction (DESIGN section 5).

Whoever keeps rows that one thread can read and write in one transaction (memory, SQLite) gets the rules from here.
Each function reads and checks first and writes after: once it writes it cannot fail, so an operation that raised
has changed nothing.
"""

from __future__ import annotations

from dataclasses import replace

from discloud.adapters.rows import Moved, ReadRows, Rows, Torn
from discloud.core.model import (
    BlobId,
    BucketId,
    Change,
    ChangeKind,
    Committed,
    Key,
    NodeId,
    Precondition,
    Repair,
    State,
    Version,
    VersionId,
)
from discloud.core.preconditions import check_write
from discloud.errors import (
    Aborted,
    Conflict,
    Gone,
    Invalid,
    NoSuchBucket,
    NoSuchKey,
    NoSuchVersion,
)

LIVE = frozenset({State.DRAFT, State.COMMITTED, State.NONCURRENT})
"""States in which a version's row owns its blobs for good."""
COLLECTABLE = frozenset({State.REPLACED, State.DELETED, State.ABORTED})
"""States whose bytes gc may take once the row is due."""
_NEVER_SEEN = frozenset({State.DRAFT, State.ABORTED})
_READABLE = frozenset({State.COMMITTED, State.NONCURRENT})
_READ_AGAIN = "read the object again and repeat the change"


# ---------------------------------------------------------------- reading


def find(rows: ReadRows, bucket: BucketId, key: Key, version: VersionId) -> Version | None:
    """The row of a version in whatever state, also where the version was moved away from ``key``.

    Raises: Torn (it was moved to and fro while the rows were read; never where they are of one moment).
    """
    passed: set[Key] = set()
    while key not in passed:
        passed.add(key)
        head = rows.head(bucket, key)
        if head is not None and head.id == version:
            return head
        row = rows.row(bucket, key, version)
        if not isinstance(row, Moved):
            return row
        key = row.to
    raise Torn


def get(rows: ReadRows, bucket: BucketId, key: Key, version: VersionId | None) -> Version:
    """``Versions.get``."""
    head = rows.head(bucket, key)
    if version is None:
        if head is None:
            raise no_such_key(key)
        return head
    if head is not None and head.id == version:
        return head
    row = rows.row(bucket, key, version)
    if row is None or (not isinstance(row, Moved) and row.state in _NEVER_SEEN):
        raise no_such_version(key, version)
    if isinstance(row, Moved) or row.state not in _READABLE:
        raise Gone(f"version {version} of {key!r} was removed", "read the object without version=")
    return row


def no_such_key(key: Key) -> NoSuchKey:
    """There is no head."""
    return NoSuchKey(f"there is no object {key!r}")


def no_such_version(key: Key, version: VersionId) -> NoSuchVersion:
    """There is no row."""
    return NoSuchVersion(f"{key!r} has no version {version}")


# ---------------------------------------------------------------- drafts


def begin(rows: Rows, draft: Version) -> None:
    """``Versions.begin``."""
    own = find(rows, draft.bucket, draft.key, draft.id)
    if own is None:
        _need_bucket(rows, draft)
        rows.write_row(replace(draft, state=State.DRAFT))
    elif own.state is State.ABORTED:
        raise aborted(draft)


def renew(rows: Rows, draft: Version, due: float) -> None:
    """``Versions.renew``."""
    own = find(rows, draft.bucket, draft.key, draft.id)
    if own is None or own.state is not State.DRAFT:
        raise aborted(draft)
    rows.write_row(replace(own, due=due))


def abort(rows: Rows, draft: Version) -> bool:
    """``Versions.abort``. An aborted row is due at once: its ``due`` is 0."""
    own = find(rows, draft.bucket, draft.key, draft.id)
    if own is not None and own.state not in _NEVER_SEEN:
        return False
    if own is None or own.state is State.DRAFT:
        row = own or replace(draft, seq=0, replaced=None)
        rows.write_row(replace(row, state=State.ABORTED, rev=row.rev + 1, due=0.0))
    return True


def aborted(draft: Version) -> Aborted:
    """The draft can never be committed."""
    return Aborted(f"version {draft.id} of {draft.key!r} is no draft any more", "write the object again")


def _need_bucket(rows: Rows, version: Version) -> None:
    if not rows.has_bucket(version.bucket):
        raise NoSuchBucket(f"there is no bucket of id {version.bucket}")


# ---------------------------------------------------------------- commits


def put(
    rows: Rows, version: Version, only: Precondition, repairs: tuple[Repair, ...], keep: float, now: float
) -> Committed:
    """``Versions.put``."""
    if (first := _put_first(rows, version, only, repairs, now)) is not None:
        return Committed(first)
    own = find(rows, version.bucket, version.key, version.id)
    if own is None:
        _need_bucket(rows, version)
    change = Change(ChangeKind.PUT, version.bucket, version.key, version, repairs=repairs, keep=keep)
    return _put(rows, change, only, now, version, own or version)


def commit(rows: Rows, change: Change, only: Precondition, now: float) -> Committed:
    """``Versions.commit``. Raises Invalid where the change lacks its version or its target."""
    if change.kind is ChangeKind.DELETE:
        return _delete(rows, change, only, now)
    if change.kind is ChangeKind.MOVE:
        return _move(rows, change, only, now)
    if change.version is None:
        raise Invalid(f"a {change.kind.name} of {change.key!r} needs its version")
    if change.kind is ChangeKind.UPDATE:
        return _update(rows, change, only, now, change.version)
    own = find(rows, change.bucket, change.key, change.version.id)
    if own is None:
        raise aborted(change.version)
    return _put(rows, change, only, now, change.version, own)


def next_seq(previous: int, now: float) -> int:
    """The ``seq`` of a commit: micros, above what was there before."""
    return max(previous + 1, int(now * 1_000_000))


def fresh_head(version: Version, seq: int, own_rev: int, displaced: Version | None) -> Version:
    """The head that a draft becomes."""
    return replace(
        version,
        state=State.COMMITTED,
        seq=seq,
        rev=own_rev + 1,
        replaced=displaced.id if displaced else None,
        due=0.0,
    )


def _put_first(
    rows: Rows, version: Version, only: Precondition, repairs: tuple[Repair, ...], now: float
) -> Version | None:
    """The short way of most puts: the first version of a key, begun and committed by one write. None = look closer."""
    if only.if_match is not None or not rows.has_bucket(version.bucket):
        return None
    if rows.head(version.bucket, version.key) is not None:
        return None
    head = fresh_head(version, next_seq(rows.floor, now), version.rev, None)
    if not rows.write_first_head(head):
        return None
    _write_added(rows, head)
    for repair in repairs:
        rows.write_repair(repair)
    return head


def _put(
    rows: Rows, change: Change, only: Precondition, now: float, version: Version, own: Version
) -> Committed:
    """``own`` is the row of the version, or the version itself where draft and commit are one step."""
    if own.state is State.ABORTED:
        raise aborted(version)
    if own is not version and own.state is not State.DRAFT:
        return Committed(own, _displaced_by(rows, change.bucket, change.key, own))
    head = rows.head(change.bucket, change.key)
    check_write(only, head)
    if own is not version:
        rows.remove_row(own.bucket, own.key, own.id)
    seq = next_seq(head.seq if head else rows.floor, now)
    fresh = fresh_head(version, seq, own.rev, head)
    _write_head(rows, fresh)
    return Committed(fresh, _finish(rows, change, head, now))


def _delete(rows: Rows, change: Change, only: Precondition, now: float) -> Committed:
    head, read = rows.head(change.bucket, change.key), change.version
    if read is not None and (head is None or head.id != read.id):
        row = rows.row(change.bucket, change.key, read.id)
        if isinstance(row, Version) and row.state is State.DELETED:
            return Committed(None, row)
    head = _expect(change, head)
    check_write(only, head)
    seq = next_seq(head.seq, now)
    _remove_head(rows, head, seq)
    dead = replace(head, state=State.DELETED, seq=seq, rev=head.rev + 1, due=now + change.keep)
    _write_dead(rows, dead)
    _write_repairs(rows, change)
    return Committed(None, dead)


def _update(rows: Rows, change: Change, only: Precondition, now: float, wish: Version) -> Committed:
    head = _expect(change, rows.head(change.bucket, change.key))
    said = (head.content_type, head.metadata) == (wish.content_type, wish.metadata)
    if head.rev == wish.rev + 1 and said:
        return Committed(head)
    if head.rev != wish.rev:
        raise Conflict(f"{change.key!r} was changed since it was read", _READ_AGAIN)
    check_write(only, head)
    seq = next_seq(head.seq, now)
    changed = replace(head, content_type=wish.content_type, metadata=wish.metadata, seq=seq, rev=head.rev + 1)
    rows.write_head(changed)
    _write_repairs(rows, change)
    return Committed(changed)


def _move(rows: Rows, change: Change, only: Precondition, now: float) -> Committed:
    target = change.target
    if target is None or target == change.key:
        raise Invalid(f"a move of {change.key!r} needs another key as its target")
    head, read = rows.head(change.bucket, change.key), change.version
    if read is not None and (head is None or head.id != read.id):
        row = rows.row(change.bucket, change.key, read.id)
        if isinstance(row, Moved) and row.to == target:
            moved = find(rows, change.bucket, target, read.id)
            if moved is not None:
                return Committed(moved, _displaced_by(rows, change.bucket, target, moved))
    head = _expect(change, head)
    displaced = rows.head(change.bucket, target)
    check_write(only, displaced)
    seq = next_seq(max(head.seq, displaced.seq if displaced else rows.floor), now)
    _remove_head(rows, head, seq)
    rows.write_moved(head, target)
    rows.remove_row(change.bucket, target, head.id)  # where it was once moved away from this very key
    fresh = replace(fresh_head(head, seq, head.rev, displaced), key=target)
    _write_head(rows, fresh)
    return Committed(fresh, _finish(rows, change, displaced, now))


def _expect(change: Change, head: Version | None) -> Version:
    """The head, if it is the one that the change was made for."""
    if head is None:
        raise no_such_key(change.key)
    if change.version is not None and head.id != change.version.id:
        raise Conflict(f"{change.key!r} was replaced since it was read", _READ_AGAIN)
    return head


def _displaced_by(rows: Rows, bucket: BucketId, key: Key, own: Version) -> Version | None:
    """The first answer of a commit that is repeated: what it replaced at ``key``, if its row is still there."""
    row = rows.row(bucket, key, own.replaced) if own.replaced else None
    return row if isinstance(row, Version) else None


def _finish(rows: Rows, change: Change, displaced: Version | None, now: float) -> Version | None:
    """Note what a new head replaced; gives its row as it is now."""
    _write_repairs(rows, change)
    if displaced is None:
        return None
    dead = replace(displaced, state=State.REPLACED, rev=displaced.rev + 1, due=now + change.keep)
    _write_dead(rows, dead)
    return dead


def _write_head(rows: Rows, head: Version) -> None:
    rows.write_head(head)
    _write_added(rows, head)


def _write_added(rows: Rows, head: Version) -> None:
    if everywhere(head):
        rows.write_log(head, removed=False)


def _remove_head(rows: Rows, head: Version, seq: int) -> None:
    rows.floor = max(rows.floor, seq)
    rows.remove_head(head.bucket, head.key)


def _write_dead(rows: Rows, dead: Version) -> None:
    rows.write_row(dead)
    if everywhere(dead):
        rows.write_log(dead, removed=True)


def _write_repairs(rows: Rows, change: Change) -> None:
    for repair in change.repairs:
        rows.write_repair(repair)


def everywhere(version: Version) -> bool:
    """Whether every node shall hold the version: its first segment is laid out so."""
    return bool(version.segments) and version.segments[0].layout.everywhere


# ---------------------------------------------------------------- after the commit


def relocate(rows: Rows, version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> bool:
    """``Versions.relocate``. Raises Invalid where the version has no such blob."""
    own = find(rows, version.bucket, version.key, version.id)
    if own is None or own.state not in LIVE:
        return False
    wanted = _with_holders(version, blob, holders)
    if own.rev == version.rev + 1 and own.segments == wanted.segments:
        return True
    if own.rev != version.rev:
        return False
    relocated = replace(own, segments=wanted.segments, rev=own.rev + 1)
    if own.state is State.COMMITTED:
        rows.write_head(relocated)
    else:
        rows.write_row(relocated)
    return True


def _with_holders(version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> Version:
    for position, segment in enumerate(version.segments):
        if segment.id == blob.segment and 0 <= blob.fragment < len(segment.holders):
            places = list(segment.holders)
            places[blob.fragment] = holders
            segments = list(version.segments)
            segments[position] = replace(segment, holders=tuple(places))
            return replace(version, segments=tuple(segments))
    raise Invalid(f"version {version.id} of {version.key!r} has no blob {blob}")


def postpone(rows: Rows, version: Version, due: float) -> None:
    """``Queues.postpone``; a version that is not waiting for gc stays as it is."""
    own = find(rows, version.bucket, version.key, version.id)
    if own is not None and own.state in COLLECTABLE:
        rows.write_row(replace(own, due=due))


def forget(rows: Rows, version: Version) -> None:
    """``Versions.forget``."""
    own = find(rows, version.bucket, version.key, version.id)
    if own is None:
        return
    if own.state in LIVE:
        raise Conflict(f"version {version.id} of {own.key!r} is {own.state.name.lower()}, it owns its blobs")
    rows.remove_row(own.bucket, own.key, own.id)
    rows.remove_moved(own.id)
