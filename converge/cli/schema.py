"""The command ``db``: the schema of the database."""

from __future__ import annotations

import sys
from argparse import Namespace

from converge.cli import EXIT_COMPLETE, EXIT_FAILED
from converge.cli.database import database_url
from converge.escaping import escape
from converge.model import DEFAULT_URL


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    from converge.sql import migrate

    url = database_url(arguments) or DEFAULT_URL
    if arguments.operation == "sql":
        sys.stdout.write(migrate.sql(url))
    elif arguments.operation == "current":
        print(migrate.current(url) or "converge's tables do not exist")
    elif arguments.operation == "upgrade":
        migrate.upgrade(url)
        print(f"the schema is at version {migrate.current(url)}")
    elif differences := migrate.check(url):
        print("the tables differ from what this converge expects:")
        for difference in differences:
            print(f"  {escape(difference)}")
        return EXIT_FAILED
    else:
        print("the schema is up to date")
    return EXIT_COMPLETE
