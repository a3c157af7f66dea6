"""``python -m converge`` is the command ``converge``."""

from __future__ import annotations

import sys

from converge.cli import main

if __name__ == "__main__":
    sys.exit(main())
