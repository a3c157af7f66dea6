"""The example ``examples/notifications``: an agent is killed, and what came of all is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "notifications" / "run.py"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)


def test_two_agents_share_what_comes_though_one_is_killed(tmp_path: Path) -> None:
    ran = run(tmp_path, "--volumes", "40")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == "an agent was killed, and started again"
    assert "events         80, of 80 different notifications" in lines
    assert "pairs          40 complete, of 40 volumes" in lines
    assert lines[-2:] == ["dead letters   3: missing, not_json, not_object", "all is right"]


def test_it_leaves_the_folder_of_another_alone(tmp_path: Path) -> None:
    mine = tmp_path / "notifications" / "mine"
    mine.mkdir(parents=True)
    ran = run(tmp_path)
    assert ran.returncode == 2
    assert "--folder notifications is there, and is not of an earlier run" in ran.stderr
    assert mine.exists()
