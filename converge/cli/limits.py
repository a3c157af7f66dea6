"""The command ``limit``."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from converge.cli import EXIT_COMPLETE
from converge.cli.database import is_there, opened, readable
from converge.cli.options.limits import KINDS
from converge.cli.output import write_json, write_table
from converge.escaping import escape

COLUMNS = ("kind", "name", "places", "taken", "rate", "waiting")


def limit(arguments: Namespace) -> int:
    """List the limits, or set or remove one."""
    return _OPERATIONS[arguments.operation](arguments)


def _list(arguments: Namespace) -> int:
    found: list[dict[str, Any]] = []
    if is_there(arguments):
        with readable(arguments) as reads:
            found = reads.limits()
    if arguments.json:
        write_json(found, sys.stdout)
    elif not found:
        print("no limits")
    else:
        write_table(COLUMNS, ([one[key] for key in COLUMNS] for one in found), sys.stdout)
    return EXIT_COMPLETE


def _set(arguments: Namespace) -> int:
    with opened(arguments) as store:
        named = {kind: getattr(arguments, kind) for kind in KINDS}
        store.set_limit(**named, places=arguments.places, rate=arguments.rate)
        kind, name = next((kind, name) for kind, name in named.items() if name is not None)
        found = [one for one in store.limits() if (one["kind"], one["name"]) == (kind, name)]
    if arguments.json:
        write_json(found[0] if found else None, sys.stdout)
        return EXIT_COMPLETE
    said = [f"{one['places']} at once" for one in found if one["places"] is not None]
    said += [one["rate"] for one in found if one["rate"] is not None]
    print(f"{kind} {escape(name)}: {', '.join(said) if said else 'no limit'}")
    return EXIT_COMPLETE


_OPERATIONS = {"list": _list, "set": _set, "remove": _set}
