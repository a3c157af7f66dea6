from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from converge.errors import BadInput, Replace
from converge.model import Physical
from converge.resources import command
from converge.resources.command import Command, CommandError
from converge.resources.resource_type import Context


def make_context(**known: Any) -> Context:
    return Context("shop", "db", **{"token": "token-1", **known})


def create(script: str, *, context: Context | None = None, **properties: Any) -> Physical:
    return Command().create(context or make_context(), {"create": script, **properties})


def wait_for(path: Path) -> str:
    """Wait until a command has written a line into a file."""
    pause = threading.Event()
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was not written"
        pause.wait(0.005)
    return path.read_text().strip()


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_output_becomes_attributes() -> None:
    made = create("echo ' hello '; echo careful >&2")
    assert made == Physical("token-1", {"stdout": "hello", "stderr": "careful"})


def test_the_keys_of_a_json_object_become_attributes() -> None:
    made = create("""echo '{"port": 80, "tags": ["a", {"b": null}], "stdout": 1, "stderr": 2}'""")
    assert made.attributes["port"] == 80
    assert made.attributes["tags"] == ["a", {"b": None}]
    assert made.attributes["stdout"].startswith('{"port": 80')
    assert made.attributes["stderr"] == ""


@pytest.mark.parametrize(
    "output",
    [
        "[1, 2]",
        '{"a": 1',
        '{"a": NaN}',
        r'{"a": "\u0000"}',
        r'{"a": "\ud800"}',
        "{" + '"a":{' * 20000,
        '{"a": 1} and more',
    ],
)
def test_what_is_not_a_storable_json_object_is_only_stdout(output: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text(output)
    made = create("cat out", directory=str(tmp_path))
    assert made.attributes == {"stdout": output, "stderr": ""}


def test_an_escaped_backslash_is_not_a_nul() -> None:
    made = create(r"""cat <<'X'
{"a": "\\u0000"}
X""")
    assert made.attributes["a"] == r"\u0000"


def test_invalid_utf8_and_nul_are_replaced() -> None:
    made = create(r"printf 'a\377b\000c'")
    assert made.attributes["stdout"] == "a\ufffdb\ufffdc"


def test_the_environment() -> None:
    made = create(
        'echo "$S/$I/$F/$T/$N/$E"; env | grep ^CONVERGE_ | grep -v ^CONVERGE_TEST_ | sort >&2',
        environment={"S": "a b", "I": 3, "F": 1.5, "T": True, "N": False, "E": ""},
        context=make_context(attempt=2),
    )
    assert made.attributes["stdout"] == "a b/3/1.5/true/false/"
    assert made.attributes["stderr"].splitlines() == [
        "CONVERGE_ATTEMPT=2",
        "CONVERGE_FAILURES={}",
        "CONVERGE_PHYSICAL_ID=token-1",
        "CONVERGE_RESOURCE=db",
        "CONVERGE_STACK=shop",
        "CONVERGE_TOKEN=token-1",
    ]


def test_of_the_engines_environment_only_what_is_named_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name in ("PATH", "HOME", "LANG", "TMPDIR"):
        monkeypatch.setenv(name, f"/{name}")
    monkeypatch.setenv("PASSED", "yes")
    monkeypatch.setenv("PGPASSWORD", "secret")
    script = {"create": "set"}
    # the shell itself sets some: PWD, IFS...
    context = make_context()
    plain = Command().create(context, script).attributes["stdout"].splitlines()
    named = Command(pass_env=["PASSED", "NOT_SET"]).create(context, script).attributes["stdout"]
    assert {"PATH='/PATH'", "HOME='/HOME'", "LANG='/LANG'", "TMPDIR='/TMPDIR'"} <= set(plain)
    assert not [line for line in plain if line.startswith(("PASSED", "PGPASSWORD"))]
    assert set(named.splitlines()) - set(plain) == {"PASSED='yes'"}


@pytest.mark.parametrize("names", ["PATH", ["A=B"], [""], [1]])
def test_what_is_passed_must_be_a_list_of_names(names: Any) -> None:
    with pytest.raises(BadInput, match="pass_env"):
        Command(pass_env=names)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"A": None}, "A must be a string, a number or a boolean, not null"),
        ({"A": [1]}, "A must be a string, a number or a boolean, not a list"),
        ({"": "x"}, "'' cannot be the name"),
        ({"A=B": "x"}, "'A=B' cannot be the name"),
        ({"A": "x\0y"}, "value of A contains a NUL"),
        (["A"], "must be a mapping, not list"),
    ],
)
def test_a_bad_environment_is_refused(environment: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        create("true", environment=environment)


def test_a_value_too_long_for_the_system_fails_clearly() -> None:
    with pytest.raises(CommandError, match=r"create cannot be started: .*pass long values in a"):
        create("true", environment={"A": "x" * 3_000_000})


def test_a_script_with_nul_is_refused() -> None:
    with pytest.raises(BadInput, match=r"create cannot be run"):
        create("echo a\0b")


def test_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert create("pwd -P", directory=str(tmp_path)).attributes["stdout"] == str(tmp_path.resolve())
    monkeypatch.chdir(tmp_path)
    assert create("pwd -P").attributes["stdout"] == str(tmp_path.resolve())


def test_a_missing_directory_fails_clearly(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(CommandError, match=r"was not run: the directory '.*missing' does not"):
        create("true", directory=missing)


def test_stdin_is_empty() -> None:
    assert create("cat; echo end").attributes["stdout"] == "end"


def fail(script: str) -> list[str]:
    """The lines of the reason."""
    with pytest.raises(CommandError) as failure:
        create(script)
    first, *lines = str(failure.value).splitlines()
    return [first.removeprefix("create exited with status 3: "), *lines]


def test_a_failure_tells_the_status_and_the_last_lines_as_printed() -> None:
    numbers = [str(number) for number in range(21, 41)]
    turns = "if [ $((i % 2)) = 0 ]; then echo $i; else echo $i >&2; fi"
    assert fail(f"for i in $(seq 40); do {turns}; done; exit 3") == numbers
    # where only one of the two is printed to for a while
    assert fail("seq 40; seq 2 >&2; exit 3") == [*numbers[2:], "1", "2"]
    assert fail("seq 2 >&2; seq 40; exit 3") == numbers
    assert fail("echo a; sleep 0.2; seq 2 >&2; sleep 0.2; seq 2; exit 3") == [*"a1212"]
    # a line that is not ended, and one that is written over
    assert fail("printf a; printf b >&2; printf a; exit 3") == ["b", "aa"]
    assert fail("printf '10%%\\r20%%\\r\\n'; exit 3") == ["20%"]


def test_without_inotify_the_last_lines_are_in_a_rough_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert fail("seq 20; seq 2 >&2; exit 3") == [*map(str, range(3, 21)), "1", "2"]


def test_a_failure_with_nothing_on_stderr_shows_stdout() -> None:
    with pytest.raises(CommandError, match=r"^create exited with status 1: on stdout$"):
        create("echo on stdout; exit 1")
    with pytest.raises(CommandError, match=r"^create exited with status 1, and printed nothing$"):
        create("exit 1")


def test_a_long_last_line_is_cut() -> None:
    with pytest.raises(CommandError) as failure:
        create("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert len(str(failure.value)) < 2100


def test_a_death_by_signal_is_told() -> None:
    with pytest.raises(CommandError, match="create was killed by SIGKILL"):
        create("kill -9 $$")
    with pytest.raises(CommandError, match=r"status 143 \(what it ran was killed by SIGTERM\)"):
        create("sh -c 'kill $$'; exit $?")


def test_the_physical_id_is_recorded_before_the_command_runs(tmp_path: Path) -> None:
    seen: list[tuple[str | None, bool]] = []
    made = tmp_path / "made"
    context = make_context(record=lambda physical_id: seen.append((physical_id, made.exists())))
    create(f"touch {made}", context=context)
    assert seen == [("token-1", False)]
    assert made.exists()
    assert context.physical_id == "token-1"


@pytest.mark.parametrize(
    ("script", "more", "known", "kept"),
    [
        ("exit 1", {}, None, None),
        ("true", {"directory": "/nowhere"}, None, None),
        ("true", {"environment": {"A": None}}, None, None),
        ("true", {"environment": {"A": "x" * 3_000_000}}, None, None),
        # it may have made something
        ("kill -9 $$", {}, None, "token-1"),
        ("sh -c 'kill -9 $$'; exit $?", {}, None, "token-1"),
        ("yes", {}, None, "token-1"),
        # so may an attempt before this one, which was interrupted
        ("exit 1", {}, "token-1", "token-1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_only_what_a_failed_create_may_have_made_stays_recorded(
    script: str, more: dict[str, Any], known: str | None, kept: str | None
) -> None:
    recorded: list[str | None] = []
    context = make_context(record=recorded.append, physical_id=known)
    with pytest.raises((BadInput, CommandError)):
        create(script, context=context, **more)
    assert recorded[0] == "token-1"
    assert (recorded[-1], context.physical_id) == (kept, kept)


def test_a_create_that_is_stopped_stays_recorded() -> None:
    context = make_context(timeout=0.01)
    with pytest.raises(CommandError, match="took longer than"):
        create("sleep 1000", context=context)
    assert context.physical_id == "token-1"


def test_a_second_attempt_keeps_the_recorded_physical_id() -> None:
    context = make_context(token="token-2", physical_id="token-1", attempt=2)
    assert create("echo $CONVERGE_PHYSICAL_ID", context=context).id == "token-1"


def test_create_may_be_missing_but_not_everything() -> None:
    context = make_context()
    made = Command().create(context, {"delete": "exit 1"})
    assert made == Physical("token-1", {"stdout": "", "stderr": ""})
    assert Command().create(context, {"triggers": 0}).id == "token-1"
    with pytest.raises(BadInput, match="at least one of: create"):
        Command().create(context, {"environment": {}})


def test_update_runs_with_the_new_environment_and_replaces_the_attributes() -> None:
    previous = {"create": """echo '{"a": 1}'""", "update": "exit 1", "environment": {"V": "old"}}
    now = {**previous, "update": "echo $V $CONVERGE_PHYSICAL_ID", "environment": {"V": "new"}}
    context = make_context(token="token-2", physical_id="token-1", properties=previous)
    made = Command().update(context, "token-1", now, previous)
    assert made == Physical("token-1", {"stdout": "new token-1", "stderr": ""})


def test_without_an_update_command_a_change_replaces() -> None:
    with pytest.raises(Replace):
        Command().update(make_context(), "p", {"create": "echo 2"}, {"create": "echo 1"})


def test_a_change_of_triggers_replaces_in_spite_of_an_update_command() -> None:
    properties = {"update": "true", "triggers": {"port": 1}}
    with pytest.raises(Replace):
        Command().update(make_context(), "p", {**properties, "triggers": {"port": 2}}, properties)
    with pytest.raises(Replace):
        Command().update(make_context(), "p", {"update": "true"}, properties)
    assert Command().update(make_context(), "p", {**properties, "delete": "x"}, properties)


def test_delete_runs_what_the_resource_was_last_brought_to(tmp_path: Path) -> None:
    properties = {
        "create": "exit 1",
        "delete": 'echo "$A $CONVERGE_PHYSICAL_ID" > out',
        "environment": {"A": 1},
        "directory": str(tmp_path),
    }
    context = make_context(physical_id="p", properties=properties)
    Command().delete(context, "p")
    assert (tmp_path / "out").read_text() == "1 p\n"


def test_without_a_delete_command_nothing_is_run() -> None:
    Command().delete(make_context(properties={"create": "exit 1"}), "p")
    with pytest.raises(CommandError, match="delete exited with status 4"):
        Command().delete(make_context(properties={"delete": "exit 4"}), "p")


def test_a_daemon_that_holds_stdout_open_does_not_hang_the_command(tmp_path: Path) -> None:
    made = create("sleep 600 & echo $!", context=make_context(timeout=20))
    pid = int(made.attributes["stdout"])
    try:
        assert not ended(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_command_runs_in_a_session_of_its_own() -> None:
    made = create(f"{sys.executable} -c 'import os; print(os.getsid(0))'")
    assert int(made.attributes["stdout"]) != os.getsid(0)


def test_cancelling_ends_the_whole_process_group(tmp_path: Path) -> None:
    context = make_context()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            create(f"sleep 600 & echo $! > {tmp_path}/pid; wait", context=context)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    pid = int(wait_for(tmp_path / "pid"))
    context.cancelled.set()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(failures[0], CommandError)
    assert str(failures[0]).startswith("create was stopped after")
    assert ended(pid)


def test_what_ignores_the_polite_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GRACE", 0.3)
    # the shell itself goes at once, its child does not
    script = f"sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done' & wait"
    with pytest.raises(CommandError, match=r"took longer than 0\.3 s"):
        create(script, context=make_context(timeout=0.3))
    assert ended(int(wait_for(tmp_path / "pid")))


def test_a_command_has_time_to_tidy_up_when_it_is_stopped(tmp_path: Path) -> None:
    script = "trap 'sleep 0.1; echo tidy > out; exit' TERM; sleep 600 & wait"
    with pytest.raises(CommandError, match="took longer"):
        create(script, directory=str(tmp_path), context=make_context(timeout=0.3))
    assert (tmp_path / "out").read_text() == "tidy\n"


def test_too_much_stdout_fails_and_names_the_limit() -> None:
    with pytest.raises(CommandError, match="more than 1,048,576 bytes to stdout, the limit"):
        create("yes")
    with pytest.raises(CommandError, match="more than 1,048,576 bytes"):
        create("head -c 1048577 /dev/zero")
    made = create("head -c 1048576 /dev/zero | tr '\\0' x")
    assert len(made.attributes["stdout"]) == 1048576


def test_of_a_flood_of_stderr_only_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STDERR_SPILL", 1024 * 1024)
    made = create("head -c 100000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2")
    assert made.attributes["stderr"].endswith("xxx\nthe end")
    assert len(made.attributes["stderr"]) <= command.STDERR_KEPT


def test_the_end_of_stderr_survives_emptying_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STDERR_SPILL", 1)
    made = create("echo early >&2; sleep 0.1; echo late >&2; sleep 0.1")
    assert made.attributes["stderr"] == "early\nlate"
    with pytest.raises(CommandError, match="late"):
        create("echo early >&2; sleep 0.1; echo late >&2; sleep 0.1; exit 1")


def test_no_zombie_is_left() -> None:
    create("true")
    children = subprocess.run(
        ["ps", "-o", "stat=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    assert "Z" not in children


ENGINE = """
import sys, threading
from converge.resources.resource_type import Context
from converge.resources.command import Command

for name in sys.argv[1:]:
    script = f"sleep 60 & echo $! > {name}.child; echo $$ > {name}; wait"
    context = Context("shop", name, token=name, resource_token=name)
    threading.Thread(target=Command().create, args=(context, {"create": script})).start()
"""


def test_a_command_dies_with_its_engine(tmp_path: Path) -> None:
    """Its children too, and where two run at once, so that one could hold the other's pipe."""
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, "a", "b"], cwd=tmp_path)
    pids = [int(wait_for(tmp_path / name)) for name in ("a", "a.child", "b", "b.child")]
    engine.kill()
    engine.wait()
    pause = threading.Event()
    deadline = time.monotonic() + 10
    while not all(ended(pid) for pid in pids):
        assert time.monotonic() < deadline, "a command outlived its engine"
        pause.wait(0.005)


def test_what_outlived_its_engine_and_its_watcher_is_ended_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    names = ["a", "b"]
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, *names], cwd=tmp_path)
    pids = [int(wait_for(tmp_path / name)) for name in ("a", "a.child", "b", "b.child")]
    try:
        # nothing may see that the other one dies
        engine.send_signal(signal.SIGSTOP)
        listed = ["ps", "-o", "pid=", "--ppid", str(engine.pid)]
        children = subprocess.run(listed, capture_output=True, check=True).stdout.split()
        for watcher in {int(pid) for pid in children} - {*pids}:
            os.kill(watcher, signal.SIGKILL)
        engine.kill()
        engine.wait()
        folder = tmp_path / f"converge-{os.geteuid()}"
        assert sorted(os.listdir(folder)) == names
        # the number of b's is another process's by now
        told = (folder / "b").read_text().split(" ")
        told[21 - 52] = "1"
        (folder / "b").write_text(" ".join(told))
        for name in names:
            context = make_context(token=f"{name} delete", resource_token=name)
            script = f"kill -0 {pids[0]} || echo none of a; kill -0 {pids[2]} && echo b"
            made = create(script, context=context)
            assert made.attributes["stdout"] == "none of a\nb"
        assert [ended(pid) for pid in pids] == [True, True, False, False]
        assert os.listdir(folder) == []
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_command_inherits_nothing_but_its_three_files() -> None:
    with open("/dev/null") as file:
        os.set_inheritable(file.fileno(), True)
        assert create("ls /proc/$$/fd").attributes["stdout"] == "0\n1\n2"


def test_a_command_that_cannot_be_started_leaves_no_watcher(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(CommandError, match="cannot be started"):
        create("true", environment={"LONG": "x" * 4_000_000})
    assert set(os.listdir("/proc/self/fd")) == before


def test_relative_paths_start_at_the_folder_of_the_template(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    context = make_context(directory=str(tmp_path))
    assert create("pwd -P", context=context).attributes["stdout"] == os.path.realpath(tmp_path)
    made = create("pwd -P", context=context, directory="sub")
    assert made.attributes["stdout"] == os.path.realpath(tmp_path / "sub")
    with pytest.raises(CommandError, match=r"the directory '.*/none' does not exist on this"):
        create("pwd", context=context, directory="none")
    gone = make_context(directory=str(tmp_path / "gone"))
    with pytest.raises(CommandError, match=r"the template's folder '.*/gone/' does not exist"):
        create("pwd", context=gone)


def test_a_check_command(tmp_path: Path) -> None:
    properties = {"create": "x", "check": "test -e thing"}
    context = make_context(directory=str(tmp_path))
    with pytest.raises(CommandError, match="check exited with status 1"):
        Command().check(context, "p", properties)
    (tmp_path / "thing").touch()
    Command().check(context, "p", properties)
