"""Who may do what: every account against every state of a bucket."""

from collections.abc import Callable

import pytest

from discloud.core.access import may_admin, may_read, may_write
from discloud.core.model import Account, Bucket, BucketId, BucketState
from discloud.errors import BucketClosed, DiscloudError, Forbidden, NoSuchBucket, Unauthenticated

ADMIN = Account("1", "root", b"", admin=True)
STRANGER = Account("2", "eve", b"")


def outcome(call: Callable[[], None]) -> type[DiscloudError] | None:
    try:
        call()
    except DiscloudError as error:
        return type(error) if error.hint else DiscloudError
    return None


@pytest.mark.parametrize(
    ("state", "read", "write"),
    [
        (BucketState.ACTIVE, None, None),
        (BucketState.READ_ONLY, None, BucketClosed),
        (BucketState.DISABLED, BucketClosed, BucketClosed),
        (BucketState.DELETING, NoSuchBucket, NoSuchBucket),
    ],
)
def test_states(
    state: BucketState, read: type[DiscloudError] | None, write: type[DiscloudError] | None
) -> None:
    bucket = Bucket(BucketId("b"), "files", 0.0, state)
    assert outcome(lambda: may_read(ADMIN, bucket)) is read
    assert outcome(lambda: may_write(ADMIN, bucket)) is write
    for check in (may_read, may_write):
        assert outcome(lambda: check(None, bucket)) is Unauthenticated  # noqa: B023
        assert outcome(lambda: check(STRANGER, bucket)) is Forbidden  # noqa: B023


def test_administrators() -> None:
    assert outcome(lambda: may_admin(ADMIN)) is None
    assert outcome(lambda: may_admin(None)) is Unauthenticated
    assert outcome(lambda: may_admin(STRANGER)) is Forbidden
