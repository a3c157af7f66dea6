"""The example ``examples/notifications``; the tutorial of notifications runs it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "notifications" / "run.py"
PAGE = Path(__file__).parents[2] / "doc" / "coordination.rst"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)


def test_the_page_shows_what_it_sends(tmp_path: Path) -> None:
    """That it ends well is shown by the tutorial, which runs it with fewer volumes."""
    example = runpy.run_path(str(PROGRAM))
    sent = example["Sent"](400, tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    assert f"\n   lines sent     {sent.lines}\n" in page
    for project, size in sent.sizes.items():
        assert f"\n   GiB of {project:<7} {size}, of {size}\n" in page


def test_it_leaves_the_folder_of_another_alone(tmp_path: Path) -> None:
    mine = tmp_path / "notifications" / "mine"
    mine.mkdir(parents=True)
    ran = run(tmp_path)
    assert ran.returncode == 2
    assert "--folder notifications is there, and is not of an earlier run" in ran.stderr
    assert mine.exists()
