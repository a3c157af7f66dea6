"""Commands as their users type them: processes of their own in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import converge
from tests import forked

#: Seconds after which a process that should have ended is a failure.
LIMIT = 60
COMMAND = (sys.executable, "-m", "converge")


class Shell:
    """A folder to run commands in.

    :ivar folder: the folder.
    :ivar forks: whether :meth:`run` forks the process from one that has imported everything, which
        takes a fraction of the time; otherwise it is a new Python.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forks = True
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CONVERGE_", "PYTHON", "NO_COLOR", "COLUMNS"))
        }
        self.environment["PYTHONPATH"] = str(Path(converge.__file__).parents[1])
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def start(
        self, *words: str, environment: Mapping[str, str] | None = None, **keywords: Any
    ) -> subprocess.Popen[str]:
        """Start a command as a new Python, in a process group of its own."""
        keywords = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **keywords,
        }
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            encoding="utf-8",
            start_new_session=True,
            **keywords,
        )
        self._started.append(process)
        return process

    def run(
        self, *words: str, status: int = 0, environment: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        """Run a command to its end; what it wrote to stdout and stderr."""
        run = self._fork if self.forks else self._run
        ended, out, err = run(words, environment or {})
        assert ended == status, (words, ended, out, err)
        assert "Traceback" not in err
        return out, err

    def _run(
        self, words: tuple[str, ...], environment: Mapping[str, str]
    ) -> tuple[int | None, str, str]:
        process = self.start(*words, environment=environment)
        out, err = process.communicate(timeout=LIMIT)
        return process.returncode, out, err

    def _fork(
        self, words: tuple[str, ...], environment: Mapping[str, str]
    ) -> tuple[int | None, str, str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = streams = Path(folder) / "out", Path(folder) / "err"
            process = forked.command(
                words, self.folder, {**self.environment, **environment}, streams
            )
            process.start()
            process.join(LIMIT)
            # None if it has not ended
            ended = process.exitcode
            process.kill()
            return ended, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")

    def json(self, *words: str, status: int = 0) -> Any:
        """Run a command with --json; its one document."""
        out, err = self.run(*words, "--json", status=status)
        assert err == ""
        return json.loads(out)

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def statuses(document: Mapping[str, Any]) -> dict[str, str]:
    return {name: about["status"] for name, about in document["resources"].items()}
