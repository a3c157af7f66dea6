"""Types and texts of templates."""

from __future__ import annotations

from typing import ClassVar

from converge.resources.resource_type import Property, ResourceType


class Server(ResourceType):
    schema: ClassVar = {
        "image": Property(str, required=True),
        "size": Property(int),
        "load": Property(float),
        "public": Property(bool),
        "disks": Property(list),
        "labels": Property(dict),
        "filter": Property(),
    }


class Anything(ResourceType):
    pass


class Nothing(ResourceType):
    schema: ClassVar = {}


TYPES = {"server": Server(), "any": Anything(), "none": Nothing()}


def in_resources(text: str) -> str:
    return "resources:\n" + "\n".join(f"  {line}" for line in text.splitlines())
