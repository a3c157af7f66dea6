"""What a handler's exception is told as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import converge
from converge import reasons
from converge.hiding import Secrets
from converge.reasons import cut_traceback, describe, format_traceback
from converge.resources.file import File

FILE = Path(__file__).name


def raised(function: Callable[[], Any]) -> Exception:
    """The exception of a call, with its traceback."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def place(function: Callable[..., Any], line: int = 1) -> str:
    """A line of a function, counted from its first one, as it is told."""
    return f"({FILE}:{function.__code__.co_firstlineno + line} in {function.__name__})"


def look_up() -> object:
    empty: dict[str, object] = {}
    return empty["missing"]


MISSING = f"KeyError: 'missing' {place(look_up, 2)}"


def test_type_message_and_place_are_told() -> None:
    assert describe(raised(look_up)) == MISSING


def test_the_place_is_in_the_authors_code_even_if_the_standard_library_raised_it() -> None:
    def parse() -> None:
        json.loads("{")

    assert describe(raised(parse)).endswith(f" (char 1) {place(parse)}")


def test_the_place_is_in_the_package_of_an_installed_type(tmp_path: Path) -> None:
    # two packages: the type's own, and one that it uses
    folder = tmp_path / "site-packages"
    made: dict[str, ModuleType] = {}
    for name, text in (
        ("driver", "def connect():\n    raise OSError('no route')\n"),
        ("cloud", "def create(connect):\n    connect()\n"),
    ):
        path = folder / name / "types.py"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        made[name] = ModuleType(name)
        exec(compile(text, str(path), "exec"), made[name].__dict__)

    # without any frame of a file that is not installed
    error = raised(lambda: made["cloud"].create(made["driver"].connect))
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert describe(error) == "OSError: no route (types.py:2 in create)"


class Refused(converge.BadInput):
    """An author's own, for users."""


def test_what_is_meant_for_users_stays_plain(tmp_path: Path) -> None:
    def refuse(message: str) -> None:
        raise Refused(message) from KeyError("inside")

    assert describe(raised(lambda: refuse("size must be at least 1"))) == "size must be at least 1"
    # without a message, the place is all there is
    assert describe(raised(lambda: refuse(""))) == f"Refused {place(refuse)}"
    error = raised(lambda: File().check(None, str(tmp_path / "x"), {}))  # type: ignore[arg-type]
    assert describe(error) == f"cannot read {str(tmp_path / 'x')!r}: No such file or directory"


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("  \n "), "RuntimeError"),
        (Mute(), "Mute: <its message cannot be read>"),
        (KeyError(), "KeyError"),
        (OSError(2, "No such file", "/x"), "FileNotFoundError: [Errno 2] No such file: '/x'"),
    ],
    ids=repr,
)
def test_odd_messages(error: BaseException, words: str) -> None:
    assert describe(error) == words


def test_what_it_was_raised_from_is_told_unless_the_message_quotes_it() -> None:
    def wrap(message: str) -> None:
        try:
            look_up()
        except KeyError as error:
            raise RuntimeError(message) from error

    here = place(wrap, 4)
    assert describe(raised(lambda: wrap("no boot"))) == (
        f"RuntimeError: no boot {here}, because of {MISSING}"
    )
    quoting = describe(raised(lambda: wrap("no boot: 'missing'")))
    assert quoting == f"RuntimeError: no boot: 'missing' {here}"


def test_the_members_of_a_group_are_told() -> None:
    inner = ExceptionGroup("in", [ValueError("b"), Refused("c")])
    group = ExceptionGroup("several", [raised(look_up), inner, OSError("d"), OSError("e")])
    assert describe(group) == (
        f"ExceptionGroup: several (4 sub-exceptions): {MISSING}; ValueError: b; c; and 2 more"
    )


def test_a_step_that_failed_for_good_has_the_place_of_its_failure() -> None:
    def fail() -> None:
        with converge.Journal("memory://").scope("job") as scope:
            scope.step("boot", look_up, retry=converge.RetryPolicy(attempts=1))

    assert describe(raised(fail)) == (f"step 'boot' of scope 'job' failed for good: {MISSING}")


def test_a_traceback_has_all_frames_and_what_led_to_it() -> None:
    def wrap() -> None:
        try:
            look_up()
        except KeyError as error:
            raise RuntimeError("no boot") from error

    text = format_traceback(raised(wrap))
    assert text is not None
    assert text.index("KeyError: 'missing'") < text.index("RuntimeError: no boot")
    assert "in look_up" in text
    assert "in wrap" in text


def test_what_converge_itself_says_to_users_has_no_traceback(tmp_path: Path) -> None:
    def check() -> None:
        File().check(None, str(tmp_path / "x"), {})  # type: ignore[arg-type]

    error = raised(check)
    assert format_traceback(error) is not None
    assert error.__traceback__ is not None
    # as if the engine had called it
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # type: ignore[union-attr]
    assert format_traceback(error) is None


def test_a_deep_recursion_and_a_cycle_of_causes_are_told() -> None:
    def deep() -> None:
        deep()

    error = raised(deep)
    assert describe(error).startswith("RecursionError: maximum recursion depth exceeded")
    assert "[Previous line repeated" in (format_traceback(error) or "")
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert describe(one) == "RuntimeError: one, because of RuntimeError: other"
    assert "RuntimeError: one" in (format_traceback(one) or "")


def test_a_long_traceback_keeps_its_end() -> None:
    text = "first\n" + "é" * 20_000 + "\x00\ud800 last"
    cut = cut_traceback(text)
    assert len(cut.encode()) <= reasons.TRACEBACK_LENGTH
    assert cut.startswith("[...] é")
    assert cut.endswith("é\\0? last")
    assert cut_traceback("short\n") == "short\n"


def test_the_secrets_of_a_stack_are_hidden_in_texts_and_values() -> None:
    key = "-----BEGIN-----\n  abcdefgh\n-----END-----"
    secrets = Secrets(
        ["s3cret/word", 4711, {"user": {"token": ["t0ken"]}}, key, None, True, "", "ab"]
    )
    assert secrets.hide("user s3cret/word s3cret%2Fword, 4711, 't0ken' true") == (
        "user *** ***, ***, '***' true"
    )
    # whoever shows it may break or indent it
    assert secrets.hide("> abcdefgh") == "> ***"
    # a short one where it is a word
    assert secrets.hide("ab cab") == "*** cab"
    # its rest, where somebody had cut the text before
    assert secrets.hide("exited: ...ret/word | [...] et/word ...rd, ...ret/wo") == (
        "exited: ...*** | [...] *** ...rd, ...ret/wo"
    )
    value = {"s3cret/word": ["x s3cret/word", 4711, 4711.5, True, None]}
    assert secrets.hide_in_json(value) == {"s3cret/word": ["x ***", "***", 4711.5, True, None]}
    assert not Secrets([None, True, " "])
    assert Secrets([]).hide_in_json(value) is value
