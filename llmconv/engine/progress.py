"""The share of a work that is done, from estimates that change while it goes on. It never falls and never jumps."""

from __future__ import annotations


class Progress:
    """share: 0 to 1.

    Of what was still to be shown, each step shows the part that was done of what was still to be done:

        1 - share' = (1 - share) * left / (left + gained)

    gained being the seconds of work since the last step. While the estimates are right, this is done / (done + left).
    When they change, the share goes on from where it is, faster or more slowly. It is 1 when nothing is left.
    """

    def __init__(self) -> None:
        self.share, self._done = 0.0, 0.0

    def advance(self, done: float, left: float) -> float:
        """The share now; done, left: seconds of work, finite and not negative. `done` may fall, as when a task has to
        begin anew: what is done again then counts once."""
        gained = max(done - self._done, 0.0)
        self._done += gained
        if left <= 0.0:
            self.share = 1.0
        elif gained:
            # the sum of two floats that are not negative is no less than either, so neither factor is above 1
            self.share = max(self.share, 1.0 - (1.0 - self.share) * (left / (left + gained)))
        return self.share
