"""The commands that look at a file or at the types only: ``validate``, ``schema``."""

from __future__ import annotations

import sys
from argparse import Namespace

from converge.cli import EXIT_COMPLETE, EXIT_USAGE
from converge.cli.output import write_file, write_json
from converge.escaping import lines


def validate(arguments: Namespace) -> int:
    """Print all mistakes of a template."""
    from converge.resources import load_types
    from converge.template import Template

    found = Template.find_mistakes(
        arguments.file,
        load_types(),
        parameters=dict(arguments.param),
        environments=arguments.environment,
        elsewhere=arguments.elsewhere,
    )
    status = EXIT_USAGE if found else EXIT_COMPLETE
    if arguments.json:
        mistakes = [
            {"message": error.message, "source": error.source, "line": error.line}
            for error in found
        ]
        write_json({"valid": not found, "mistakes": mistakes}, sys.stdout)
        return status
    for error in found:
        print(f"converge: error: {lines(str(error))}", file=sys.stderr)
    if found:
        count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
        print(f"converge: {count}", file=sys.stderr)
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
