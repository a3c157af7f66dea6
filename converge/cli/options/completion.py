"""The options of ``converge completion``."""

from __future__ import annotations

from converge.cli.options.commands import Commands

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Add it."""
    parser = commands.add("completion", "Print what a shell needs to complete commands and options")
    parser.add_argument(
        "shell",
        metavar="|".join(SHELLS),
        choices=SHELLS,
        help='which shell; for bash: eval "$(converge completion bash)"',
    )
