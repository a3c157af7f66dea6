"""The command ``db``: the schema of the database, and what is old in it."""

from __future__ import annotations

import sys
from argparse import Namespace

from converge.cli import EXIT_COMPLETE, EXIT_FAILED
from converge.cli.database import database_url, is_there, opened
from converge.cli.output import write_json
from converge.cli.words import pruned
from converge.errors import NotFound
from converge.escaping import escape
from converge.model import DEFAULT_FILE, DEFAULT_URL


def run(arguments: Namespace) -> int:
    """Do what was asked for."""
    if arguments.operation == "prune":
        return _prune(arguments)
    if arguments.operation == "new-key":
        from converge.sealing import new_key

        print(new_key())
        return EXIT_COMPLETE
    if arguments.operation == "reencrypt":
        return _reencrypt(arguments)
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


def _prune(arguments: Namespace) -> int:
    from dataclasses import asdict

    from converge.protocol.prune import KEEP, Pruned

    keep = KEEP if arguments.keep is None else arguments.keep
    dry_run = bool(arguments.dry_run)
    done = Pruned()
    if is_there(arguments):
        with opened(arguments) as store:
            done = store.prune(older_than=arguments.older_than, keep=keep, dry_run=dry_run)
    if arguments.json:
        write_json(asdict(done) | {"dry_run": dry_run}, sys.stdout)
    else:
        print(pruned(done, dry_run=dry_run))
    return EXIT_COMPLETE


def _reencrypt(arguments: Namespace) -> int:
    from converge.sql.keys import reencrypt

    if not is_there(arguments):
        raise NotFound(f"this folder has no {DEFAULT_FILE}; name a database with --db URL")
    with opened(arguments) as store:
        count = reencrypt(store.database)
        keyring = store.database.keyring
    assert keyring is not None
    values = f"{count:,} value{'' if count == 1 else 's'}"
    print(f"encrypted {values} with the key {keyring.chosen}; all others were so already")
    return EXIT_COMPLETE
