"""When something that failed is retried."""

from __future__ import annotations

from dataclasses import dataclass

from converge.errors import BadInput
from converge.model import check_seconds


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed handler is retried. The count and the next time are kept in the node's row,
    so a retry outlives the engine.

    :param attempts: the most calls of the handler, at least 1.
    :param first: seconds to wait after the first failure; doubled after each further one.
    :param most: the longest wait, in seconds.
    :param exceptions: which exceptions are worth another attempt.
    :param deaths: after how many engines have died (or lost their lease) while working on a node
        it fails, at least 1: the handler itself may be what kills them.
    :raises BadInput: for numbers out of range.
    """

    attempts: int = 1
    first: float = 1.0
    most: float = 60.0
    exceptions: tuple[type[BaseException], ...] = (Exception,)
    deaths: int = 5

    def __post_init__(self) -> None:
        for name in ("attempts", "deaths"):
            count = getattr(self, name)
            if type(count) is not int or count < 1:
                raise BadInput(f"RetryPolicy.{name} must be a whole number from 1, not {count!r}")
        for name in ("first", "most"):
            if (seconds := getattr(self, name)) != 0:
                check_seconds(f"RetryPolicy.{name}", seconds)
        kinds = self.exceptions if isinstance(self.exceptions, tuple) else (self.exceptions,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise BadInput(f"RetryPolicy.exceptions must be exception types, not {kinds!r}")

    def wait(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after failed attempt number ``attempt`` (from 1); None: give up."""
        # imported here, as most engines never need it
        from retrying import Retrying

        policy = Retrying(
            stop_max_attempt_number=self.attempts,
            # retrying waits 2 ** attempt times the multiplier, in milliseconds
            wait_exponential_multiplier=self.first * 500,
            wait_exponential_max=self.most * 1000,
        )
        if not isinstance(error, self.exceptions) or policy.stop(attempt, 0):
            return None
        # beyond that the power is too large for a float, and the wait the longest anyway
        return float(policy.wait(min(attempt, 500), 0)) / 1000
