"""The commands that look at a file or at the types only: ``validate``, ``schema``."""

from __future__ import annotations

import sys
from argparse import Namespace

from converge.cli import EXIT_COMPLETE, EXIT_USAGE
from converge.cli.mistakes import (
    find_mistakes,
    list_mistakes,
    print_count,
    print_mistakes,
    read_stdin,
)
from converge.cli.output import write_file, write_json


def validate(arguments: Namespace) -> int:
    """Print all mistakes of a template."""
    from converge.resources import load_types

    found = find_mistakes(arguments, load_types(), read_stdin(arguments))
    status = EXIT_USAGE if found else EXIT_COMPLETE
    if arguments.json:
        write_json({"valid": not found, "mistakes": list_mistakes(found)}, sys.stdout)
        return status
    print_mistakes(found)
    if found:
        print_count(found)
    else:
        print("no mistakes")
    return status


def schema(arguments: Namespace) -> int:
    """Print a JSON Schema of templates."""
    import json

    from converge.resources import load_types
    from converge.template.json_schema import make_schema

    made = make_schema(load_types())
    if arguments.output is None:
        write_json(made, sys.stdout)
    else:
        write_file(arguments.output, json.dumps(made, indent=2) + "\n")
    return EXIT_COMPLETE
