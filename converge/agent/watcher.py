"""Who wants to know what an agent does, for metrics. Nothing depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.pipeline import BatchResult


class Watcher:
    """Is told what an agent does, in the agent's threads. It does nothing; others override it."""

    def gathered(self, buses: Mapping[str, int], age: float) -> None:
        """A batch was received.

        :param buses: how many messages of it came by each bus.
        :param age: seconds that its first message waited for others.
        """

    def done(self, result: BatchResult) -> None:
        """Messages or deliveries came to an end, or will be tried again."""

    def acknowledged(self, seconds: float) -> None:
        """A batch was acknowledged.

        :param seconds: since it was gathered.
        """

    def gave_back(self, messages: int) -> None:
        """Messages went back to the bus, as the store could not be used."""

    def outage(self) -> None:
        """The bus or the store cannot be used from now on."""
