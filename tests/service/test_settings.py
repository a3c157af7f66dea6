"""Where the settings of a service come from: the command line, files, defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from converge.cli.parser import parse
from converge.errors import BadInput
from converge.lease import LEASE
from converge.service.files import read_files
from converge.service.options import list_opts
from converge.service.settings import (
    AGENT,
    SETTINGS,
    SETTINGS_ENGINE,
    SETTINGS_SHARED,
    Setting,
    fill_in,
)

FILE = """\
[DEFAULT]
debug = true
[converge]
processes = 3
[engine]
workers = 5
grace = 0
pass_env = A,B
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "converge.conf"
    path.write_text(FILE)
    return path


def test_a_file_sets_what_it_says_and_nothing_else(path: Path) -> None:
    found = read_files([str(path)])
    assert found == {"processes": 3, "workers": 5, "grace": 0.0, "pass_env": ["A", "B"]}


def test_of_two_files_the_last_one_counts(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.conf"
    other.write_text("[engine]\nworkers = 6\n")
    assert read_files([str(path), str(other)])["workers"] == 6
    assert read_files([str(other), str(path)])["workers"] == 5


def test_the_environment_of_oslo_config_is_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_ENGINE__WORKERS", "9")
    assert read_files([str(path)])["workers"] == 5


def test_the_command_line_comes_before_a_file_and_a_file_before_the_default(path: Path) -> None:
    arguments = parse(["engine", "--workers", "7", "--pass-env", "C"])
    fill_in(arguments, read_files([str(path)]), SETTINGS_SHARED + SETTINGS_ENGINE)
    assert (arguments.workers, arguments.pass_env) == (7, ["C"])
    assert (arguments.processes, arguments.grace) == (3, 0.0)
    assert (arguments.lease, arguments.db, arguments.prune_after) == (LEASE, None, None)
    assert set(arguments.from_files) == {"processes", "grace"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\nwokers = 5\n", "[engine] has no option 'wokers'; did you mean 'workers'?"),
        ("[engine]\nworkers = 1001\n", "[engine] workers is not valid"),
        ("[engine]\nworkers = many\n", "[engine] workers is not valid"),
        ("[engine]\nlease = 0.5\n", "[engine] lease is not valid"),
        ("[converge]\nlog_format = xml\n", "[converge] log_format is not valid"),
        ("[converge\n", "line 1: "),
        ("workers = 5\n", "line 1: Section must be started"),
        (
            "[converge]\nbus = rabbit://u:hu$nter2@h/\n",
            "[converge] bus is not valid: write $ as $$",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_refused(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        read_files([str(path)])
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert "nter2" not in str(refused.value)


def test_a_line_that_cannot_be_parsed_is_not_shown(path: Path) -> None:
    path.write_text("[converge]\ndb postgresql://u:hunter2@h/d\n")
    with pytest.raises(BadInput, match="a line that is not NAME = VALUE") as refused:
        read_files([str(path)])
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*none\.conf: No such file"):
        read_files([str(tmp_path / "none.conf")])


def test_every_setting_is_an_option_and_on_the_command_line() -> None:
    options = {option.name: option for _, group in list_opts() for option in group}
    arguments = {**vars(parse(["engine"])), **vars(parse(["agent"]))}
    # a file's values are found by their names alone
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert options.keys() == {setting.name for setting in SETTINGS} <= arguments.keys()
    for setting in SETTINGS:
        assert options[setting.name].default == setting.default
        assert options[setting.name].secret == setting.secret


@pytest.mark.parametrize(
    "setting", [one for one in SETTINGS if one.most is not None], ids=lambda one: str(one.name)
)
def test_a_file_takes_the_numbers_that_the_command_line_takes(setting: Setting) -> None:
    assert setting.least is not None
    assert setting.most is not None
    option = next(one for _, group in list_opts() for one in group if one.name == setting.name)
    command = "agent" if setting.group == AGENT else "engine"
    word = f"--{setting.name.replace('_', '-')}"
    for value in (setting.least, setting.most):
        assert getattr(parse([command, word, str(value)]), setting.name) == value
        assert option.type(str(value)) == value
    with pytest.raises(BadInput):
        parse([command, word, f"{setting.most + 1:.0f}"])
    with pytest.raises(ValueError, match="Should be less than or equal to"):
        option.type(f"{setting.most + 1:.0f}")
