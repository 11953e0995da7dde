"""What time it is for the mesh: the median of the clocks that a root can compare with its own.

One wrong clock among three cannot move the mesh's time; where no majority is against it a root believes itself. Times are
seconds; ``at`` and ``now`` belong to one clock that never goes back.
"""

from __future__ import annotations

VALID = 10.0
"""Seconds for which a clock that was compared has a say."""


class ClockVotes:
    """By how much other clocks are ahead of this node's: one vote for each ``source``, and zero for the node itself."""

    def __init__(self) -> None:
        self._votes: dict[str, tuple[float, float]] = {}

    def note(self, source: str, offset: float, at: float) -> None:
        """``source`` was found to be ``offset`` seconds ahead of this node's clock."""
        self._votes[source] = (offset, at)

    def offset(self, now: float) -> float:
        """By how much the mesh's time is ahead of this node's clock.

        With an even number of votes it is the one of the middle two that is nearer to this node's own.
        """
        self._votes = {source: vote for source, vote in self._votes.items() if now - vote[1] < VALID}
        votes = sorted([0.0, *(offset for offset, _ in self._votes.values())])
        return min(votes[(len(votes) - 1) // 2], votes[len(votes) // 2], key=abs)
