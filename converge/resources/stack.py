"""The ``stack`` resource: a nested stack, with a template of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from converge.resources.resource_type import Context, Planned, Property, ResourceType


class Stack(ResourceType):
    """Bring about a stack that belongs to this resource: it is created, updated, rolled back,
    checked and deleted with it. Its outputs are the attributes.

    In a template, the path of a file as the type, such as ``./network.yaml``, is this type with
    the template of that file, and its properties are the parameters.
    """

    nests: ClassVar[bool] = True
    relative_paths: ClassVar[bool] = True
    schema: ClassVar[Mapping[str, Property]] = {
        "template": Property(dict, required=True, description="the template, written out"),
        "parameters": Property(
            dict, default={}, description="the values of the template's parameters"
        ),
        "file": Property(
            str, description="the file that the template is from; its relative paths start there"
        ),
    }

    def create(self, context: Context, properties: Mapping[str, Any]) -> Any:
        """Make it, and wait until it is complete."""
        return context.nest.bring_about(context, properties)

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Any:
        """Change it, and wait until it is complete."""
        return context.nest.bring_about(context, properties)

    def plan(
        self,
        context: Context,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any] | None,
    ) -> Planned:
        """It is changed in place, whatever changes."""
        return Planned()

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Look at what is in it."""
        context.nest.check(context)

    def delete(self, context: Context, physical_id: str) -> None:
        """Delete it, and wait until it is gone."""
        context.nest.delete(context)

    def secret_properties(self, properties: Mapping[str, Any]) -> Collection[str]:
        """Its parameters, if the template hides one that is given."""
        template = properties.get("template")
        declared = template.get("parameters") if isinstance(template, Mapping) else None
        given = properties.get("parameters") or {}
        hidden = (
            name
            for name, one in (declared or {}).items()
            if isinstance(one, Mapping) and one.get("hidden") is True
        )
        return ("parameters",) if any(name in given for name in hidden) else ()
