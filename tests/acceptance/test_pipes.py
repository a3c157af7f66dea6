"""Commands between others in a script: what they read and write, and how they end."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from converge.cli import main
from tests.acceptance.shell import LIMIT, Shell

TEMPLATE = "resources: {a: {type: value, properties: {value: 1}}, b: {type: none}}\n"
FAILING = "resources: {a: {type: command, properties: {create: exit 3}, retry: 1}}\n"


def test_no_word_at_all_asks_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("usage: converge")
    assert "environment:" in output.out
    assert output.err == ""


def test_a_template_is_read_from_stdin_and_its_paths_start_here(shell: Shell) -> None:
    text = "resources: {a: {type: file, properties: {path: here, content: {get_file: words}}}}"
    shell.write("words", "some words")

    def up(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "converge", "up", "-", "--stack", "s"],
            cwd=shell.folder,
            env=shell.environment,
            input=text,
            capture_output=True,
            encoding="utf-8",
            timeout=LIMIT,
        )

    assert up(text).returncode == 0
    assert shell.read("here") == "some words"
    wrong = up("resources: {a: {typ: none}}")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("converge: error: <stdin>:1: ")


def test_events_that_are_followed_are_a_document_a_line_and_end_as_the_stack(shell: Shell) -> None:
    shell.write("good.yaml", TEMPLATE)
    shell.write("bad.yaml", FAILING)
    shell.run("up", "good.yaml")
    shell.run("up", "bad.yaml", status=1)
    out, _ = shell.run("events", "good", "--follow", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert events == shell.json("events", "good")
    assert {one["resource"] for one in events} == {None, "a", "b"}
    out, _ = shell.run("events", "bad", "--follow", "--json", status=1)
    assert [json.loads(line)["status"] for line in out.splitlines()][-1] == "FAILED"
    shell.run("events", "bad", "--follow", status=1)
    shell.run("events", "good", "--follow")


def test_a_list_says_when_nobody_goes_on_and_why_that_something_is_stuck(shell: Shell) -> None:
    shell.write("good.yaml", TEMPLATE)
    shell.run("up", "good.yaml")
    assert shell.run("list")[1] == ""
    assert shell.run("why")[0] == "nothing is stuck\n"
    shell.write("good.yaml", TEMPLATE.replace("b:", "c:"))
    shell.run("up", "good.yaml", "--no-wait")
    out, err = shell.run("list")
    assert "IN_PROGRESS" in out
    assert err == "converge: no engine is alive; to go on, run `converge engine`\n"
    shell.run("why", status=3)
    assert len(shell.json("why", status=3)) == 2
    # of one stack, it is an answer
    shell.run("why", "good")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("converge rollb", {"rollback"}),
        ("converge up --on-fail", {"--on-failure"}),
        ("converge up --on-failure ", {"stop", "continue", "rollback"}),
        ("converge up sho", {"shop.yaml"}),
        ("converge db ", {"upgrade", "reencrypt"}),
    ],
)
def test_a_shell_completes_what_is_typed(shell: Shell, typed: str, completed: set[str]) -> None:
    shell.write("shop.yaml", TEMPLATE)
    script, _ = shell.run("completion", "bash")
    words = typed.split(" ")
    (function,) = re.findall(r"^complete .*-F (\S+) converge$", script, re.MULTILINE)
    ask = f"""
COMP_WORDS=({" ".join(word or "''" for word in words)}); COMP_CWORD={len(words) - 1}
{function} converge "{words[-1]}" "{words[-2]}"
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script + ask],
        cwd=shell.folder,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )
    assert completed <= set(done.stdout.split()), done.stderr


def test_what_is_gone_can_be_deleted_again(shell: Shell) -> None:
    shell.write("good.yaml", TEMPLATE)
    shell.run("up", "good.yaml")
    shell.run("down", "good")
    assert shell.run("down", "good")[0] == "stack 'good' is already deleted\n"
    # a name that never was may be mistyped
    shell.run("down", "goood", status=2)
