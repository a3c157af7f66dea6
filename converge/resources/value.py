"""The ``value`` resource: a value with a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from converge.model import Physical
from converge.resources.resource_type import Context, Planned, Property, ResourceType


class Value(ResourceType):
    """Pass a value on: the property ``value`` becomes the attribute ``value``.

    It gives a name to a value that several others need, such as an address that is put
    together from parameters and attributes.
    """

    attribute_names: ClassVar[tuple[str, ...]] = ("value",)
    schema: ClassVar[Mapping[str, Property]] = {"value": Property(object, required=True)}

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Take the value."""
        return Physical(context.token, {"value": properties["value"]})

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Take another value, in place."""
        return Physical(physical_id, {"value": properties["value"]})

    def plan(
        self, context: Context, properties: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> Planned:
        """Every change is in place, and the value is known before."""
        return Planned(attributes={"value": properties["value"]})

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Find nothing wrong: there is nothing real to check."""

    def delete(self, context: Context, physical_id: str) -> None:
        """Do nothing: there is nothing real to delete."""
