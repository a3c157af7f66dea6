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
        Busy,
        Cancelled,
        CircularDependency,
        CommitUnknown,
        Conflict,
        ConvergeError,
        Drifted,
        Gone,
        IllegalEvent,
        JournalMismatch,
        NotFound,
        Replace,
        SchemaError,
        SecretKeyError,
        SignalFailed,
        SignalTimeout,
        StaleLock,
        StepFailed,
        StoreError,
        TemplateError,
        UnresolvedReference,
        Veto,
    )
    from converge.graph import Graph
    from converge.journal import Journal, Scope
    from converge.journal.asynchronous import AsyncScope
    from converge.machine import Machine, State, Transition
    from converge.machine.action import AsyncAction
    from converge.machine.move import ActionFailed
    from converge.model import Physical
    from converge.resources.asynchronous import AsyncContext
    from converge.resources.resource_type import Context, Planned, Property, Real, ResourceType
    from converge.retry import RetryPolicy
    from converge.stack import Stack
    from converge.store import Store, connect
    from converge.template import Template
    from converge.wait import Wait

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "errors",
    "Cancelled": "errors",
    "Busy": "errors",
    "CircularDependency": "errors",
    "CommitUnknown": "errors",
    "Conflict": "errors",
    "ConvergeError": "errors",
    "Drifted": "errors",
    "Gone": "errors",
    "ActionFailed": "machine",
    "IllegalEvent": "errors",
    "JournalMismatch": "errors",
    "NotFound": "errors",
    "Replace": "errors",
    "SchemaError": "errors",
    "SecretKeyError": "errors",
    "SignalFailed": "errors",
    "SignalTimeout": "errors",
    "StaleLock": "errors",
    "StepFailed": "errors",
    "StoreError": "errors",
    "TemplateError": "errors",
    "UnresolvedReference": "errors",
    "Veto": "errors",
    "Graph": "graph",
    "AsyncAction": "machine.action",
    "AsyncContext": "resources.asynchronous",
    "AsyncScope": "journal.asynchronous",
    "Journal": "journal",
    "Scope": "journal",
    "Machine": "machine",
    "State": "machine",
    "Transition": "machine",
    "Physical": "model",
    "Context": "resources.resource_type",
    "Planned": "resources.resource_type",
    "Property": "resources.resource_type",
    "Real": "resources.resource_type",
    "ResourceType": "resources.resource_type",
    "RetryPolicy": "retry",
    "Stack": "stack",
    "Store": "store",
    "connect": "store",
    "Engine": "engine",
    "Template": "template",
    "Wait": "wait",
}

__all__ = [
    "ActionFailed",
    "AsyncAction",
    "AsyncContext",
    "AsyncScope",
    "BadInput",
    "Busy",
    "Cancelled",
    "CircularDependency",
    "CommitUnknown",
    "Conflict",
    "Context",
    "ConvergeError",
    "Drifted",
    "Engine",
    "Gone",
    "Graph",
    "IllegalEvent",
    "Journal",
    "JournalMismatch",
    "Machine",
    "NotFound",
    "Physical",
    "Planned",
    "Property",
    "Real",
    "Replace",
    "ResourceType",
    "RetryPolicy",
    "SchemaError",
    "Scope",
    "SecretKeyError",
    "SignalFailed",
    "SignalTimeout",
    "Stack",
    "StaleLock",
    "State",
    "StepFailed",
    "Store",
    "StoreError",
    "Template",
    "TemplateError",
    "Transition",
    "UnresolvedReference",
    "Veto",
    "Wait",
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
