"""Who may do what: the one place that says no to an account or for a bucket's state.

For now every known account is an administrator's and may do all; the account is judged before the bucket, so that a
stranger learns nothing about it. A bucket that is being deleted is absent already.
"""

from __future__ import annotations

from discloud.core.model import Account, Bucket, BucketState
from discloud.errors import BucketClosed, Forbidden, NoSuchBucket, Unauthenticated


def may_read(account: Account | None, bucket: Bucket) -> None:
    """Nothing, if the account may read in the bucket. Raises: Unauthenticated, Forbidden, NoSuchBucket, BucketClosed."""
    may_admin(account)
    _check_open(bucket)


def may_write(account: Account | None, bucket: Bucket) -> None:
    """Nothing, if the account may write in the bucket. Raises: Unauthenticated, Forbidden, NoSuchBucket, BucketClosed."""
    may_read(account, bucket)
    if bucket.state is BucketState.READ_ONLY:
        raise BucketClosed(f"the bucket {bucket.name} is read-only", "an administrator can set it to active")


def may_admin(account: Account | None) -> None:
    """Nothing, if the account is an administrator's. Raises: Unauthenticated, Forbidden."""
    if account is None:
        raise Unauthenticated("this needs a token", "send the header Authorization: Bearer TOKEN")
    if not account.admin:
        raise Forbidden(f"the account {account.name} may not do this", "ask an administrator for the right")


def _check_open(bucket: Bucket) -> None:
    if bucket.state is BucketState.DELETING:
        raise NoSuchBucket(f"there is no bucket {bucket.name}", "create it, or choose another name")
    if bucket.state is BucketState.DISABLED:
        raise BucketClosed(f"the bucket {bucket.name} is disabled", "an administrator can set it to active")
