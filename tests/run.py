#!/usr/bin/env python3
"""Run the tests, with nothing needed but Python 3.11 or newer::

    python3 tests/run.py [quick] [PYTEST ARGUMENTS]

The first run makes a virtual environment in ``.venv`` and installs converge and pytest
there. Paths among the arguments are relative to the checkout.

Tests that use a database run on each of SQLite, PostgreSQL and MariaDB that answers; the
output says which did not, why, and how to point the tests at one; so do those of the journal
on Redis, and those of the bus on RabbitMQ. ``quick`` is for while one works: the tests of what is
pure, the guards and the stories, on SQLite. ``--about leases`` runs the tests of one subject;
``tests/subjects.yaml`` lists them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import checkout  # noqa: E402

#: Of setup.cfg: what the tests of all parts of the library import.
_EXTRAS = [
    *("test", "postgresql", "mariadb", "redis", "kafka"),
    *("secrets", "completion", "service", "metrics", "tracing"),
]
# Anything that says how many processes, or wants to talk to the terminal, gets no others.
_ALONE = ("-n", "--numprocesses", "--pdb", "--trace", "-s", "--capture=no", "--collect-only")

_QUICK = ["tests/unit", "tests/guards", "tests/scenarios", "-m", "not postgresql and not mariadb"]


def main() -> None:
    """Set up, then hand over to pytest."""
    try:
        python = checkout.prepare(_EXTRAS)
    except checkout.SetupError as error:
        sys.exit(f"tests/run.py: {error}")
    arguments = sys.argv[1:]
    if arguments[:1] == ["quick"]:
        arguments = [*_QUICK, *arguments[1:]]
    if not any(argument.startswith(_ALONE) for argument in arguments):
        # more than there are cores: they wait for servers and disks for much of their time
        processes = min(2 * (os.cpu_count() or 1), 4)
        arguments = ["-n", str(processes), "--dist", "worksteal", *arguments]
    # or each process that a test starts would compile all that it imports
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.chdir(ROOT)
    checkout.run([python, "-m", "pytest", *arguments])


if __name__ == "__main__":
    main()
