#!/usr/bin/env python3
"""Bring about the example ``webapp.yaml``, with nothing needed but Python 3.11 or newer::

    python3 examples/run.py [OPTIONS]           # converge up examples/webapp.yaml
    python3 examples/run.py show webapp         # or any other command of converge
    python3 examples/run.py down webapp

The first run makes a virtual environment in ``.venv`` and installs converge there.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import checkout


def main() -> None:
    """Set up, then hand over to ``converge``."""
    try:
        python = checkout.prepare()
    except checkout.SetupError as error:
        sys.exit(f"examples/run.py: {error}")
    arguments = sys.argv[1:]
    about = ("-h", "--help", "--version")
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in about):
        arguments = ["up", str(ROOT / "examples" / "webapp.yaml"), *arguments]
    checkout.run([python.with_name("converge"), *arguments])


if __name__ == "__main__":
    main()
