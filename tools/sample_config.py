#!/usr/bin/env python3
"""Write ``examples/deploy/converge.conf.sample``: every setting, with its unit and default::

    python3 tools/sample_config.py

oslo-config-generator finds the options as an installed converge gives them, by the entry point in
``setup.cfg``, whatever version is installed.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "examples" / "deploy" / "converge.conf.sample"
_GROUP = "oslo.config.opts"


def generate() -> str:
    """The sample file."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    points = setup["options.entry_points"][_GROUP].strip()
    with tempfile.TemporaryDirectory() as folder:
        # of two distributions of one name, Python takes the first on its path
        about = Path(folder) / "converge-0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: converge\nVersion: 0\n")
        (about / "entry_points.txt").write_text(f"[{_GROUP}]\n{points}\n")
        program = "from oslo_config.generator import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", program, "--namespace", "converge", "--wrap-width", "96"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([folder, str(ROOT)]),
                # stevedore's cache
                "XDG_CACHE_HOME": folder,
            },
            capture_output=True,
            text=True,
            check=True,
        )
    return ran.stdout.strip() + "\n"


if __name__ == "__main__":
    SAMPLE.write_text(generate(), encoding="utf-8")
