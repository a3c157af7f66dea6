"""What a simulation says of its seed."""

from __future__ import annotations


class Trace:
    """What happened, a line each, and what was wrong."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.wrong: list[str] = []

    def tell(self, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(what)

    def complain(self, what: str) -> None:
        """Something is as it must not be."""
        self.tell(f"!!! {what}")
        self.wrong.append(what)
