#!/usr/bin/env python3
"""Make this checkout ready to run: a virtual environment ``.venv`` with converge in it.

``examples/run.py`` and ``tests/run.py`` start here, so this uses the standard library only,
and parses in Pythons that are too old, to be able to say so. By itself::

    python3 tools/checkout.py [EXTRA ...]

sets the environment up with these extras of ``setup.cfg`` and prints the path of its Python.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
NEEDED = (3, 11)

# What decides which packages belong in the environment; a change of it means another install.
_DECIDING = ("setup.cfg", "pyproject.toml", "tools/checkout.py")


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def prepare(extras: Iterable[str] = ()) -> Path:
    """Make or bring up to date ``.venv``, with converge (editable) and the given extras.

    Quick when there is nothing to do. Safe to call from several processes at once. Extras
    installed earlier stay.

    :param extras: names from ``[options.extras_require]`` in ``setup.cfg``.
    :returns: the path of the environment's Python.
    :raises SetupError: this Python is too old or has no ensurepip, or pip failed.
    """
    if sys.version_info < NEEDED:
        raise SetupError(
            "converge needs Python {0}.{1} or newer; this is {2}, version {3}. Run the same "
            "command with a newer one, for example python{0}.{1}.".format(
                NEEDED[0], NEEDED[1], sys.executable, sys.version.split()[0]
            )
        )
    with _lock(ROOT / ".venv.lock"):
        _prepare(frozenset(extras))
    return PYTHON


def run(command: Sequence[str | Path]) -> None:
    """Become this command: same process id, so that signals and the exit status are its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], [str(word) for word in command])


def say(text: str) -> None:
    """Tell the person at the terminal; standard output belongs to the command that follows."""
    print(text, file=sys.stderr, flush=True)


def _prepare(extras: frozenset[str]) -> None:
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT}".encode())
    for name in _DECIDING:
        digest.update((ROOT / name).read_bytes())
    wanted = digest.hexdigest()

    stamp = ENVIRONMENT / "converge.stamp"
    installed: frozenset[str] = frozenset()
    try:
        found = json.loads(stamp.read_text())
        installed = frozenset(found["extras"])
        if found["digest"] == wanted and extras <= installed and _works():
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no stamp: never finished
    extras |= installed

    # Until pip is done there is no stamp, so an interrupted install is done again.
    stamp.unlink(missing_ok=True)
    if not _works():
        _make()
    # the folder's own name may have a bracket in it, so pip is given "."
    target = "." + (f"[{','.join(sorted(extras))}]" if extras else "")
    say(f"Installing converge into {ENVIRONMENT} ...")
    pip = [str(PYTHON), "-m", "pip", "-qq", "--disable-pip-version-check"]
    command = [*pip, "install", "--editable", target]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        raise SetupError(
            "pip could not install converge and what it depends on; its message is above. It "
            "needs a package index: the network, or the one that pip is configured for."
        )
    stamp.write_text(json.dumps({"digest": wanted, "extras": sorted(extras)}))


def _works() -> bool:
    """Whether the environment's Python starts, is of this version, and has pip."""
    if not PYTHON.exists():
        return False
    check = f"import sys, pip; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    return subprocess.run([PYTHON, "-c", check], stderr=subprocess.DEVNULL).returncode == 0


def _make() -> None:
    say(f"Making a virtual environment in {ENVIRONMENT} ...")
    if ENVIRONMENT.is_symlink():
        raise SetupError(f"{ENVIRONMENT} is a symbolic link: remove it, and run this again.")
    if ENVIRONMENT.exists():
        # never delete what is not a virtual environment: a person may have put it there
        if any(ENVIRONMENT.iterdir()) and not (ENVIRONMENT / "pyvenv.cfg").exists():
            raise SetupError(f"{ENVIRONMENT} is not a virtual environment: move it away first.")
        shutil.rmtree(ENVIRONMENT)
    try:
        import ensurepip  # noqa: F401 - Debian leaves it out of its python3
    except ImportError:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments, because its module ensurepip "
            "is missing. On Debian or Ubuntu: apt install python3-venv. Or run the same command "
            "with another Python."
        ) from None
    try:
        venv.create(ENVIRONMENT, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"cannot make the virtual environment {ENVIRONMENT}: {error}") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that the operating system gives back when its holder dies."""
    try:
        file = path.open("w")
    except OSError as error:
        raise SetupError(f"cannot write to the checkout: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run that is setting up .venv ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """The command of this file."""
    try:
        print(prepare(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


if __name__ == "__main__":
    main()
