"""Virtual environments for what is compared with converge, or draws its plots.

Each has the packages of a file in ``requirements/``, all of them pinned. It is made when it is
first asked for, and again when that file has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Where they are unless somebody says otherwise; git ignores it.
FOLDER = ROOT / ".cache" / "environments"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


class NotInstalled(Exception):
    """An environment could not be made; the message says why, in one line."""


def prepare(folder: Path, name: str) -> Path:
    """Make an environment, if there is none. Several processes may ask for it at once.

    :param name: of its file of requirements.
    :returns: its Python.
    :raises NotInstalled: pip could not install its packages.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    home = folder / name
    stamp = home / "installed"
    python = home / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text() == wanted):
            shutil.rmtree(home, ignore_errors=True)
            _install(home, python, requirements)
            stamp.write_text(wanted)
    return python


def _install(home: Path, python: Path, requirements: Path) -> None:
    venv.create(home, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [*command, "--no-deps", "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalled((errors or ["pip failed"])[-1])


def version(python: Path, package: str) -> str:
    """The version of a package in an environment."""
    program = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()
