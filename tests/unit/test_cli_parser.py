"""The command line's grammar and its messages."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from converge.cli import main
from converge.cli.options.grammar import UsageError
from converge.cli.parser import parse


def test_up_has_defaults() -> None:
    arguments = parse(["up", "shop.yaml"])
    assert vars(arguments) == {
        "command": "up",
        "file": "shop.yaml",
        "stack": None,
        "elsewhere": [],
        "queue": None,
        "priority": None,
        "param": [],
        "environment": [],
        "keep_params": False,
        "plan": False,
        "yes": False,
        "unprotect": [],
        "refresh": False,
        "replace": [],
        "target": [],
        "actor": None,
        "async_workers": 1000,
        "workers": 8,
        "grace": 20.0,
        "pass_env": [],
        "file_root": [],
        "on_failure": "stop",
        "timeout": None,
        "no_wait": False,
        "json": False,
        "db": None,
        "bus": None,
    }


def test_up_takes_all_options() -> None:
    words = "up f.yaml --stack s --param a=1 --param b=x=y --param c= --workers 3 --timeout 2.5"
    arguments = parse([*words.split(), "--on-failure", "rollback", "--no-wait", "--json"])
    assert arguments.param == [("a", "1"), ("b", "x=y"), ("c", "")]
    assert (arguments.stack, arguments.workers, arguments.timeout) == ("s", 3, 2.5)
    assert (arguments.on_failure, arguments.no_wait, arguments.json) == ("rollback", True, True)


@pytest.mark.parametrize(
    "words", [["--db", "sqlite:///x", "list"], ["list", "--db", "sqlite:///x"]]
)
def test_the_database_is_named_before_or_after_the_command(words: list[str]) -> None:
    assert parse(words).db == "sqlite:///x"


def test_the_database_named_last_wins() -> None:
    assert parse(["--db", "sqlite:///x", "show", "s", "--db", "sqlite:///y"]).db == "sqlite:///y"


@pytest.mark.parametrize("command", ["down", "rollback", "check"])
def test_commands_that_work_take_workers_and_no_wait(command: str) -> None:
    arguments = parse([command, "s", "--workers", "1000", "--no-wait", "--timeout", "1", "--json"])
    assert (arguments.name, arguments.workers, arguments.no_wait) == ("s", 1000, True)


@pytest.mark.parametrize("command", ["up f", "down s", "rollback s", "check s", "engine"])
def test_commands_that_work_take_the_time_to_stop_in(command: str) -> None:
    # that of an engine may be in a file
    assert parse(command.split()).grace == (None if command == "engine" else 20)
    assert parse([*command.split(), "--grace", "0"]).grace == 0
    assert parse([*command.split(), "--grace", "1.5"]).grace == 1.5


def test_an_engine_takes_its_lease() -> None:
    assert parse(["engine"]).lease is None
    assert [parse(["engine", "--lease", text]).lease for text in ("1", "3600")] == [1, 3600]


def test_engines_can_be_listed_with_those_that_ended() -> None:
    assert not parse(["engines"]).all
    assert parse(["engines", "--all"]).all


def test_why_asks_about_a_resource_a_stack_or_everything() -> None:
    asked = [parse(words.split()) for words in ("why s r", "why s", "why")]
    assert [(one.name, one.resource) for one in asked] == [("s", "r"), ("s", None), (None, None)]
    assert parse(["why", "s", "r", "--traceback"]).traceback
    with pytest.raises(UsageError, match="--traceback needs a NAME and a RESOURCE"):
        parse(["why", "s", "--traceback"])


def test_show_has_a_page_or_the_whole() -> None:
    commands = ("show s", "show s --limit 0", "show s --limit all")
    assert [parse(one.split()).limit for one in commands] == [100, 0, None]
    words = "show s --status FAILED --status COMPLETE --type a --after r"
    asked = parse(words.split())
    assert (asked.status, asked.type, asked.after) == (["FAILED", "COMPLETE"], ["a"], "r")


def test_list_shows_nested_stacks_if_asked_to() -> None:
    assert [parse(words.split()).nested for words in ("list", "list --nested")] == [False, True]


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("2026-11-28T10:00:00Z", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        ("2026-11-28T12:00+02:00", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        # as times are printed
        ("2026-11-28T10:00", datetime(2026, 11, 28, 10, tzinfo=UTC)),
        ("2026-11-28", datetime(2026, 11, 28, tzinfo=UTC)),
    ],
)
def test_events_are_asked_for_by_age_or_time(text: str, since: float | datetime) -> None:
    assert parse(["events", "s", "--since", text]).since == since


@pytest.mark.parametrize(
    "command", ["list", "show s", "events s", "why", "why s", "why s r", "engines", "recover"]
)
def test_commands_that_read_have_json(command: str) -> None:
    assert parse([*command.split(), "--json"]).json


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("upp x", "unknown 'upp'; did you mean 'up'?"),
        ("qqqq", "known: adopt, agent, cancel, check, completion, db"),
        ("up", "FILE"),
        ("up x --wokers 3", "unknown option '--wokers'; did you mean '--workers'?"),
        ("up x --workers=", "must be a whole number from 1 to 1000, not ''"),
        ("up x --workers 0", "from 1 to 1000, not '0'"),
        ("up x --workers 1001", "from 1 to 1000"),
        ("up x --workers -1", "from 1 to 1000, not '-1'"),
        ("up x --timeout 0", "seconds above 0"),
        ("up x --timeout nan", "seconds above 0"),
        ("up x --timeout inf", "seconds above 0"),
        ("up x --timeout soon", "seconds above 0"),
        ("up x --grace -1", "number of seconds from 0 to 315360000, not '-1'"),
        ("engine --grace nan", "seconds from 0"),
        ("engine --grace inf", "seconds from 0"),
        ("engine --grace soon", "seconds from 0"),
        ("engine --lease 0", "number of seconds from 1 to 3600, not '0'"),
        ("engine --lease 0.9", "seconds from 1 to 3600"),
        ("engine --lease -5", "seconds from 1 to 3600"),
        ("engine --lease 3601", "seconds from 1 to 3600"),
        ("engine --lease nan", "seconds from 1 to 3600"),
        ("engine --lease inf", "seconds from 1 to 3600"),
        ("engine --lease long", "seconds from 1 to 3600"),
        ("up x --lease 5", "unknown option '--lease'"),
        ("engine --lese 5", "did you mean '--lease'?"),
        ("up x --param a", "must be NAME=VALUE, not 'a'"),
        ("up x --param =1", "must be NAME=VALUE"),
        ("up x --param a=1 --param a=2", "'a' is given more than once"),
        ("up x --on-failure explode", "unknown 'explode'; known: continue, rollback, stop"),
        ("up x --on-failure rolback", "did you mean 'rollback'?"),
        ("down x --on-failure rollback", "unknown 'rollback'; known: continue, stop"),
        ("up x y", "unexpected argument 'y'"),
        ("--json list", "--json belongs after the command"),
        ("list --work 3", "unknown option '--work'"),
        ("rollback s --to 0", "at least 1, or empty, not '0'"),
        ("rollback s --to nothing", "or empty, not 'nothing'"),
        ("graph s --format png", "unknown 'png'"),
        ("db upgrde", "did you mean 'upgrade'?"),
        ("up -", "a template from stdin has no name: say --stack NAME"),
        ("events s --limit 0", "at least 1, not '0'"),
        ("events s --since -1", "must be a number of seconds from 0 to 315360000, or a time"),
        ("events s --since nan", "or a time such as 2026-12-31T23:59:59Z, not 'nan'"),
        ("events s --since yesterday", "not 'yesterday'"),
        ("show s --limit -1", "must be a whole number of at least 0, or all, not '-1'"),
        ("show s --limit many", "or all, not 'many'"),
        ("show s --status FAILD", "unknown 'FAILD'; did you mean 'FAILED'?"),
        ("show s --status INIT", "unknown 'INIT'"),
        ("graph s --status done", "unknown 'done'"),
        ("graph s --around r --status FAILED", "--around and --status cannot be combined"),
        ("graph s --depth 2", "--depth needs --around RESOURCE or --status STATUS"),
        ("graph s --around r --depth -1", "at least 0, not '-1'"),
    ],
)
def test_bad_usage_is_explained(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words.split())
    assert message in str(caught.value)
    assert "--help" in str(caught.value)


def test_bad_usage_is_one_error_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upp"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("converge: error: argument COMMAND: unknown 'upp'")


@pytest.mark.parametrize("words", [["--help"], ["up", "--help"]])
def test_help_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "usage: converge" in capsys.readouterr().out


def test_help_states_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for status in (0, 1, 2, 70, 130, 141, 143):
        assert f"\n  {status} " in text


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_quick_answers_import_nothing_heavy(option: str) -> None:
    program = (
        "import sys\n"
        "from converge.cli import main\n"
        f"assert main([{option!r}]) == 0\n"
        "heavy = {'sqlalchemy', 'rich', 'yaml', 'oslo_db', 'alembic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "converge" in ran.stdout
