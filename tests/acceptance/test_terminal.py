"""The command line at a terminal: what it asks there, and what it draws."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Mapping

import pytest

from tests.acceptance.shell import LIMIT, Shell


def on_terminal(
    shell: Shell,
    environment: Mapping[str, str],
    *words: str,
    types: str | None = None,
    status: int = 0,
) -> str:
    """What a command writes to a terminal.

    :param types: what is typed there; None: it is no terminal for typing.
    """
    parent, child = pty.openpty()
    process = shell.start(
        *words,
        stdin=subprocess.DEVNULL if types is None else child,
        stdout=child,
        stderr=child,
        environment={"TERM": "xterm", **environment},
    )
    os.close(child)
    if types is not None:
        os.write(parent, types.encode())
    text = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # Linux's way to say that nobody writes there any more
            break
        if not part:
            break
        text += part
    os.close(parent)
    assert process.wait(timeout=LIMIT) == status, text
    return text.decode()


def test_what_destroys_is_asked_for_at_a_terminal(shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    text = on_terminal(shell, {}, "up", "a.yaml", "--plan", types="n\n", status=1)
    assert "+ n (none)" in text
    assert "go on? [y/N]" in text
    # to look, and to say no, makes not even a database
    assert shell.names() == {"a.yaml"}
    text = on_terminal(shell, {}, "up", "a.yaml", "--plan", types="y\n")
    assert "CREATE COMPLETE" in text
    text = on_terminal(shell, {}, "down", "a", types="\n", status=1)
    assert "- n (none)" in text
    assert "delete stack 'a'? [y/N]" in text
    assert shell.json("show", "a")["status"] == "COMPLETE"
    assert "DELETE COMPLETE" in on_terminal(shell, {}, "down", "a", types="yes\n")


def test_a_terminal_has_live_progress(shell: Shell) -> None:
    shell.write(
        "a.yaml",
        "resources:\n"
        "  '[red]x': {type: command, properties: {create: 'sleep 0.5', delete: 'true'}}\n"
        "outputs: {'[b]o': {value: '[i]v'}}\n",
    )
    text = on_terminal(shell, {}, "up", "a.yaml")
    assert "0 of 1 done, 1 running" in text
    assert "━" in text or "─" in text
    assert "[red]x" in text
    assert "[b]o = [i]v" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "\x1b[32m" in on_terminal(shell, {}, "list")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_unwanted(environment: dict[str, str], shell: Shell) -> None:
    shell.write("a.yaml", "resources: {n: {type: none}}")
    text = on_terminal(shell, environment, "up", "a.yaml")
    text += on_terminal(shell, environment, "list")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)
    if "TERM" in environment:
        assert "\x1b" not in text
        assert "n CREATE COMPLETE" in text
