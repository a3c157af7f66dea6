"""The ``signal`` resource: it is there when somebody has said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from converge.model import Json, Physical
from converge.resources.resource_type import Context, Property, ResourceType


class Signal(ResourceType):
    """Wait for signals, which ``converge signal`` or :meth:`converge.Store.signal` sends.

    It is complete when ``count`` of them have come, and holds nothing until then. A signal with a
    failure fails it; the next attempt waits for others. The attribute ``data`` is the data of the
    last one, and ``signals`` the data of all. For how long it waits, the resource's ``timeout``
    says.
    """

    attribute_names: ClassVar[tuple[str, ...]] = ("data", "signals")
    schema: ClassVar[Mapping[str, Property]] = {
        "count": Property(
            int,
            default=1,
            constraints={"range": {"min": 1}},
            immutable=True,
            description="how many signals must come",
        ),
        "name": Property(
            str, default="signal", immutable=True, description="the name of these signals"
        ),
    }

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Wait until all have come."""
        count, name = properties["count"], properties["name"]
        found: list[Json] = []
        while len(found) < count:
            progress = f"waits for signal {name!r}"
            if count > 1:
                progress = f"{len(found)} of {count} signals {name!r} have come"
            found.append(context.wait_signal(name, progress=progress))
        return Physical(context.token, {"data": found[-1], "signals": found})

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Find nothing wrong: what was said was said."""

    def delete(self, context: Context, physical_id: str) -> None:
        """Do nothing: there is nothing real to delete."""
