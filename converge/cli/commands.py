"""The commands by name. Each takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

_SILENT = logging.NullHandler()


def run(arguments: Namespace) -> int:
    """Run the command that was parsed."""
    # otherwise Python prints what libraries log, with tracebacks; the exception says it, too
    if not os.environ.get("CONVERGE_DEBUG"):
        logging.getLogger().addHandler(_SILENT)
    return find(arguments.command)(arguments)


def find(command: str) -> Callable[[Namespace], int]:
    """The function of a command. Only its own module is imported: those that read need less."""
    module, _, name = COMMANDS[command].partition(".")
    function = getattr(import_module(f"converge.cli.{module}"), name)
    return cast("Callable[[Namespace], int]", function)


#: Where the function of each command is.
COMMANDS: Mapping[str, str] = {
    "up": "stacks.up",
    "plan": "plans.plan",
    "validate": "validation.validate",
    "schema": "validation.schema",
    "down": "stacks.down",
    "rollback": "stacks.rollback",
    "check": "stacks.check",
    "cancel": "stacks.cancel",
    "forget": "takeovers.forget",
    "adopt": "takeovers.adopt",
    "move": "takeovers.move",
    "signal": "stacks.signal",
    "list": "queries.list_",
    "show": "queries.show",
    "graph": "queries.graph",
    "events": "queries.events",
    "why": "queries.why",
    "engine": "engine.engine",
    "engines": "queries.engines",
    "recover": "engine.recover",
    "limit": "limits.limit",
    "completion": "completion.run",
    "journal": "journal.run",
    "machine": "machine.run",
    "pipeline": "pipeline.run",
    "deadletters": "notifications.deadletters",
    "deliveries": "notifications.deliveries",
    "event-store": "notifications.event_store",
    "agent": "agent.agent",
    "group": "group.run",
    "db": "schema.run",
}
