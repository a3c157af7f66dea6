"""converge: bring many interdependent things into a desired state, on a SQL database.

The names below are the public ones. Each is imported when it is first used, so that
``import converge`` alone loads no database layer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converge.engine import Engine
    from converge.errors import (
        BadInput,
        CircularDependency,
        CommitUnknown,
        Conflict,
        ConvergeError,
        NotFound,
        Replace,
        SchemaError,
        StaleLock,
        StoreError,
        TemplateError,
        UnresolvedReference,
    )
    from converge.graph import Graph
    from converge.model import Physical
    from converge.resource_type import Context, Property, ResourceType, RetryPolicy
    from converge.stack import Stack
    from converge.stacks import Store, connect
    from converge.template import Template

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "errors",
    "CircularDependency": "errors",
    "CommitUnknown": "errors",
    "Conflict": "errors",
    "ConvergeError": "errors",
    "NotFound": "errors",
    "Replace": "errors",
    "SchemaError": "errors",
    "StaleLock": "errors",
    "StoreError": "errors",
    "TemplateError": "errors",
    "UnresolvedReference": "errors",
    "Graph": "graph",
    "Physical": "model",
    "Context": "resource_type",
    "Property": "resource_type",
    "ResourceType": "resource_type",
    "RetryPolicy": "resource_type",
    "Stack": "stack",
    "Store": "stacks",
    "connect": "stacks",
    "Engine": "engine",
    "Template": "template",
}

__all__ = [
    "BadInput",
    "CircularDependency",
    "CommitUnknown",
    "Conflict",
    "Context",
    "ConvergeError",
    "Engine",
    "Graph",
    "NotFound",
    "Physical",
    "Property",
    "Replace",
    "ResourceType",
    "RetryPolicy",
    "SchemaError",
    "Stack",
    "StaleLock",
    "Store",
    "StoreError",
    "Template",
    "TemplateError",
    "UnresolvedReference",
    "connect",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'converge' has no attribute {name!r}")
    value = getattr(import_module(f"converge.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
