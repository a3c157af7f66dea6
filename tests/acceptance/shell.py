"""Commands as their users type them: real processes in a folder of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import converge

#: Seconds after which a process that should have ended is a failure.
LIMIT = 60
COMMAND = (sys.executable, "-m", "converge")


class Shell:
    """A folder to run commands in.

    :ivar folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        """Start a command, in a process group of its own."""
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
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
        process = self.start(*words, environment=environment)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == status, (words, process.returncode, out, err)
        assert "Traceback" not in err
        return out, err

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
