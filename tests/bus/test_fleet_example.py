"""The example ``examples/fleet``: its engines are killed, and what is in its cloud is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "fleet" / "run.py"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    url = f"sqlite:///{folder / 'fleet.db'}"
    command = [sys.executable, str(PROGRAM), "--db", url, "--bus", "database://", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


def test_a_fleet_of_two_pools_converges_though_engines_are_killed(tmp_path: Path) -> None:
    size = ["--stacks", "2", "--nodes", "12", "--engines", "2", "--kills", "2", "--seconds", "0.1"]
    ran = run(tmp_path, *size)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all 2 stacks are as their templates say: 24 things" in ran.stdout
    assert "2 engines killed" in ran.stdout
    assert len(list((tmp_path / "fleet" / "things").glob("*.json"))) == 24


def test_it_leaves_the_folder_of_another_alone(tmp_path: Path) -> None:
    mine = tmp_path / "fleet" / "mine"
    mine.mkdir(parents=True)
    ran = run(tmp_path)
    assert ran.returncode == 2
    assert "--folder fleet is there, and is not of an earlier run" in ran.stderr
    assert mine.exists()
