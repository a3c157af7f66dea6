"""The ``none`` resource: a place in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converge.resources.resource_type import Context, Planned, ResourceType


class Nothing(ResourceType):
    """Do nothing, with any properties: to join or order other resources, or to try a graph out."""

    schema = None

    def create(self, context: Context, properties: Mapping[str, Any]) -> None:
        """Do nothing."""

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> None:
        """Do nothing: every change is in place."""

    def plan(
        self, context: Context, properties: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> Planned:
        """Every change is in place."""
        return Planned()

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Find nothing wrong: there is nothing real to check."""

    def delete(self, context: Context, physical_id: str) -> None:
        """Do nothing."""
