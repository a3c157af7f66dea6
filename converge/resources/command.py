"""The ``command`` resource: shell commands that make, change and remove something."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import IO, Any, ClassVar

from converge.errors import BadInput, ConvergeError, Drifted, Replace, with_article
from converge.model import Json, Physical, Replacing
from converge.resources.printed import Printed
from converge.resources.process_groups import Record, stop_group
from converge.resources.resource_type import Context, How, Planned, Property, ResourceType
from converge.resources.watcher import Watched

#: Bytes that a command may write to stdout, as that becomes an attribute.
STDOUT_LIMIT = 1024 * 1024
#: Bytes of the end of stderr that are kept.
STDERR_KEPT = 64 * 1024
#: Bytes of stderr on the disk after which all but the end is discarded.
STDERR_SPILL = 16 * 1024 * 1024
#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0
#: Seconds between two looks at a running command, at first and at most.
FIRST_POLL, LONGEST_POLL = 0.002, 0.05
#: The exit status of a check that says that the thing has drifted: that of ``converge check``.
DRIFTED = 3
#: Characters of each reason in CONVERGE_FAILURES.
REASON_SHOWN = 1000
#: What a command sees of the engine's environment. All else may be secret.
PASSED = ("PATH", "HOME", "LANG", "TMPDIR")
#: An escaped NUL in JSON text, as opposed to an escaped backslash before "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class CommandError(ConvergeError):
    """A command could not be started, failed, or was stopped; the message says which and why.

    :ivar made_nothing: it never ran, or exited by itself, and then had to clean up itself.
    :ivar status: of its exit, None if it did not come to one.
    :ivar printed: the end of what it printed.
    """

    def __init__(
        self,
        message: str,
        *,
        made_nothing: bool = False,
        status: int | None = None,
        printed: str = "",
    ) -> None:
        super().__init__(message)
        self.made_nothing = made_nothing
        self.status = status
        self.printed = printed


class Command(ResourceType):
    """Something that shell commands create, change and delete.

    Properties, all optional (but one of the first three or ``triggers`` must be given):

    ``create``, ``update``, ``delete``
        run by ``/bin/sh -c``, with an empty stdin and in a session of their own.
    ``check``
        run like them by ``converge check``, to see whether the thing is as it should be. With the
        status 3 it says that it has drifted, and what it prints says how; with another one than 0
        that it is broken, or could not be looked at. Both are mended by the next ``converge up``.
        It must change nothing. Without it, the resource counts as not checked.
    ``environment``
        variables to add: strings, numbers, booleans (``true`` or ``false``). Of the engine's own
        environment a command sees only ``PATH``, ``HOME``, ``LANG`` and ``TMPDIR``, and what
        ``pass_env`` names.
    ``directory``
        where they run; default: the template's folder, or that of the engine if the template is
        from no file. A relative one starts there. It must exist.
    ``triggers``
        any value; a change replaces the resource, whether there is an ``update`` or not.

    A change of ``delete`` or ``check`` alone runs nothing and applies from then on, also to a
    resource whose delete has failed. A change of any other property, the text of a command
    included, runs the new ``update`` if there is one, and otherwise replaces the resource; the old
    one is deleted by the ``delete``, in the environment and directory, that it was last created or
    updated with.

    The commands are also given ``CONVERGE_STACK``, ``CONVERGE_RESOURCE``, ``CONVERGE_TOKEN``,
    ``CONVERGE_ATTEMPT``, ``CONVERGE_PHYSICAL_ID``, and ``CONVERGE_FAILURES``: of a resource that
    ``runs: always``, what has failed before it, a JSON object of reasons by name; else ``{}``. The
    physical id is the token of the first ``create``, which knows it already: use it in the name of
    what is made, and set ``replace: create_first`` in the template if the old one must stay until
    the new one exists. Otherwise the old one is deleted first.

    A ``create`` that exits with a status other than 0 counts as having made nothing: its ``delete``
    is not run, as that could remove what an older version made under the same name. It must clean
    up after itself. If it was killed or interrupted, its ``delete`` is run.

    Attributes, always those of the last ``create`` or ``update`` that ran: ``stdout`` (white space
    stripped; at most 1 MiB, more is a failure), ``stderr`` (its last 64 KiB), and, where stdout is
    a JSON object, its keys. Bytes that are not UTF-8 are replaced by U+FFFD.

    The reason of a failure ends with the last 20 lines of stdout and stderr, interleaved as they
    were printed: exactly, where the two take turns that are one line long or 50 ms apart, and
    nearly elsewhere. Of more than 1,800 characters the last ones are shown.

    A command has ended when its shell has; what it left running in the background stays. When it is
    cancelled or times out, the command and its whole process group are terminated, and killed five
    seconds later. When the engine's process dies, even by SIGKILL, a watcher kills the group at
    once, as the next attempt may start at any moment. If the watcher was killed, too, the next
    command of the resource, on the same host and of the same user, first ends the group as the
    engine would; it finds it by a file in ``$TMPDIR/converge-UID``. A process that left the group
    (``setsid``) is out of reach of all three.

    :param pass_env: names of further variables of the engine's environment that every command
        sees; those that are not set there are left out.
    :raises BadInput: for a name that a variable cannot have.
    """

    schema: ClassVar[Mapping[str, Property]] = {
        "create": Property(str),
        "update": Property(str),
        "delete": Property(str),
        "check": Property(str),
        "environment": Property(dict, texts=True),
        "directory": Property(str),
        "triggers": Property(object),
    }
    delete_properties: ClassVar[tuple[str, ...]] = ("delete", "check")
    check_property: ClassVar[str | None] = "check"
    relative_paths: ClassVar[bool] = True
    #: The old and the new commands usually name the same thing.
    replace: ClassVar[str] = Replacing.DELETE_FIRST

    def __init__(self, pass_env: Iterable[str] = ()) -> None:
        if isinstance(pass_env, str):
            raise BadInput(f"pass_env must be a list of names, not the string {pass_env!r}")
        self.pass_env = tuple(_name(name, "pass_env") for name in pass_env)

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Run ``create``, if there is one.

        :raises BadInput: for a bad property.
        :raises CommandError: if it fails or is stopped.
        """
        if not any(name in properties for name in ("create", "update", "delete", "triggers")):
            raise BadInput("a command needs at least one of: create, update, delete, triggers")
        physical_id = context.physical_id or context.token
        # what an interrupted attempt recorded may exist, whatever this one does
        is_first = context.physical_id is None
        # before anything is done, so that whatever an interrupted command made is deleted
        context.record(physical_id)
        try:
            return Physical(physical_id, self._run("create", context, physical_id, properties))
        except (BadInput, CommandError) as error:
            made_nothing = isinstance(error, BadInput) or error.made_nothing
            if is_first and made_nothing and not context.cancelled.is_set():
                context.record(None)
            raise

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Run ``update``; its output replaces all attributes.

        :raises Replace: if there is no ``update``, or ``triggers`` changed.
        :raises BadInput: for a bad property.
        :raises CommandError: if it fails or is stopped.
        """
        if properties.get("triggers") != previous.get("triggers"):
            raise Replace("triggers changed")
        if properties.get("update") is None:
            raise Replace("there is no update command")
        return Physical(physical_id, self._run("update", context, physical_id, properties))

    def plan(
        self, context: Context, properties: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> Planned:
        """Without an ``update``, or with other ``triggers``, it is replaced."""
        if previous is None:
            return Planned()
        if properties.get("triggers") != previous.get("triggers"):
            return Planned(How.REPLACE, reason="triggers change")
        if properties.get("update") is None:
            return Planned(How.REPLACE, reason="there is no update command")
        return Planned()

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Run ``check``, if there is one.

        :raises Drifted: if it says so.
        :raises BadInput: for a bad property.
        :raises CommandError: if it fails or is stopped.
        """
        try:
            self._run("check", context, physical_id, properties)
        except CommandError as error:
            if error.status != DRIFTED:
                raise
            raise Drifted(error.printed) from error

    def delete(self, context: Context, physical_id: str) -> None:
        """Run ``delete``, if there is one.

        :raises CommandError: if it fails or is stopped.
        """
        self._run("delete", context, physical_id, context.properties)

    def _run(
        self, which: str, context: Context, physical_id: str, properties: Mapping[str, Any]
    ) -> dict[str, Json]:
        names = (*PASSED, *self.pass_env)
        passed = {name: os.environ[name] for name in names if name in os.environ}
        return _run(which, context, physical_id, properties, passed)


def _run(
    which: str,
    context: Context,
    physical_id: str,
    properties: Mapping[str, Any],
    passed: Mapping[str, str],
) -> dict[str, Json]:
    """Run one of the commands to its end, and return the attributes."""
    script = properties.get(which)
    if script is None:
        return {"stdout": "", "stderr": ""}
    if not isinstance(script, str):
        raise BadInput(f"{which} must be a string, not {type(script).__name__}")
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        # files, not pipes: a daemon that inherits a pipe would keep us waiting for its end, and
        # would die of SIGPIPE if we went. Appending lets us empty a file that is written to.
        for file in (stdout, stderr):
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        printed = Printed(stdout, stderr)
        try:
            watched = _start(
                which, script, context, physical_id, properties, passed, stdout, stderr
            )
            process = watched.process
            try:
                kept = _wait(which, process, context, stdout, stderr, printed)
            except BaseException:
                stop_group(process.pid, lambda: _has_ended(process), GRACE)
                raise
            finally:
                watched.close()
                process.wait()
            printed.look()
        finally:
            printed.close()
        errors = _text((kept + _tail(stderr, STDERR_KEPT))[-STDERR_KEPT:])
        if process.returncode:
            last = str(printed)
            reason = f"{which} {_ending(process.returncode)}"
            raise CommandError(
                f"{reason}: {last}" if last else f"{reason}, and printed nothing",
                made_nothing=not _killed_by(process.returncode),
                status=process.returncode,
                printed=last,
            )
        _refuse_long_stdout(which, stdout)
        output = _text(_tail(stdout, STDOUT_LIMIT))
    return {**_json_object(output), "stdout": output, "stderr": errors}


def _start(
    which: str,
    script: str,
    context: Context,
    physical_id: str,
    properties: Mapping[str, Any],
    passed: Mapping[str, str],
    stdout: IO[bytes],
    stderr: IO[bytes],
) -> Watched:
    directory = os.path.join(context.directory or os.getcwd(), properties.get("directory") or "")
    if not os.path.isdir(directory):
        what = "the directory" if properties.get("directory") else "the template's folder"
        raise CommandError(
            f"{which} was not run: {what} {directory!r} does not exist on this machine",
            made_nothing=True,
        )
    environment = {
        **passed,
        **_environment(properties.get("environment") or {}),
        "CONVERGE_STACK": context.stack,
        "CONVERGE_RESOURCE": context.name,
        "CONVERGE_TOKEN": context.token,
        "CONVERGE_ATTEMPT": str(context.attempt),
        "CONVERGE_PHYSICAL_ID": physical_id,
        "CONVERGE_FAILURES": _failures(context),
    }
    record = Record(context.resource_token)
    if (group := record.find()) is not None:
        # both its engine and its watcher were killed
        stop_group(group, lambda: record.find() is None, GRACE)
        if record.find() is not None:
            raise CommandError(
                f"{which} was not run: process {group} of an earlier attempt cannot be killed"
            )
    try:
        return Watched(script, stdout, stderr, directory, environment, record)
    except ValueError as error:
        raise BadInput(f"{which} cannot be run: {error}") from error
    except OSError as error:
        hint = "; pass long values in a file" if error.errno == errno.E2BIG else ""
        raise CommandError(
            f"{which} cannot be started: {error.strerror}{hint}", made_nothing=True
        ) from error


def _failures(context: Context) -> str:
    """What has failed before, as a JSON object: there is room for so much in a variable."""
    found = {name: reason[:REASON_SHOWN] for name, reason in context.failures.items()}
    return json.dumps(found, ensure_ascii=False)


def _name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name or "=" in name or "\0" in name:
        raise BadInput(f"{where}: {name!r} cannot be the name of a variable")
    return name


def _environment(given: object) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise BadInput(f"environment must be a mapping, not {type(given).__name__}")
    result = {}
    for name, value in given.items():
        _name(name, "environment")
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str | int | float):
            shown = "null" if value is None else with_article(type(value).__name__)
            raise BadInput(
                f"environment: {name} must be a string, a number or a boolean, not {shown}"
            )
        result[name] = str(value)
        if "\0" in result[name]:
            raise BadInput(f"environment: the value of {name} contains a NUL character")
    return result


def _wait(
    which: str,
    process: subprocess.Popen[bytes],
    context: Context,
    stdout: IO[bytes],
    stderr: IO[bytes],
    printed: Printed,
) -> bytes:
    """Wait for the shell to end.

    :returns: the end of the part of stderr that was discarded.
    """
    started = time.monotonic()
    deadline = None if context.timeout is None else started + context.timeout
    pause = FIRST_POLL
    kept = b""
    while not _has_ended(process):
        if context.cancelled.wait(pause):
            raise CommandError(f"{which} was stopped after {time.monotonic() - started:.1f} s")
        if deadline is not None and time.monotonic() >= deadline:
            raise CommandError(f"{which} took longer than {context.timeout:g} s")
        _refuse_long_stdout(which, stdout)
        printed.look()
        if os.fstat(stderr.fileno()).st_size > STDERR_SPILL:
            kept = (kept + _tail(stderr, STDERR_KEPT))[-STDERR_KEPT:]
            os.ftruncate(stderr.fileno(), 0)
            printed.forget_stderr()
        pause = min(pause * 1.5, LONGEST_POLL)
    return kept


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the shell has ended. It is not reaped, so that its group's id stays taken."""
    try:
        state = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        # the host program reaps all its children
        return True
    return state is not None


def _killed_by(returncode: int) -> str:
    """The signal that killed the shell, or what the shell ran; empty if none did."""
    if returncode < 0:
        return _signal_name(-returncode)
    return _signal_name(returncode - 128) if returncode > 128 else ""


def _ending(returncode: int) -> str:
    name = _killed_by(returncode)
    if returncode < 0:
        return f"was killed by {name}"
    if name:
        return f"exited with status {returncode} (what it ran was killed by {name})"
    return f"exited with status {returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if number < signal.NSIG else ""


def _refuse_long_stdout(which: str, stdout: IO[bytes]) -> None:
    if os.fstat(stdout.fileno()).st_size > STDOUT_LIMIT:
        raise CommandError(
            f"{which} wrote more than {STDOUT_LIMIT:,} bytes to stdout, the limit of an "
            "attribute; send it to a file or to /dev/null"
        )


def _tail(file: IO[bytes], length: int) -> bytes:
    """The last bytes of a file that others may be writing to."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), length, max(0, size - length))


def _text(data: bytes) -> str:
    # PostgreSQL cannot store NUL characters
    return data.decode(errors="replace").replace("\0", "\ufffd").strip()


def _json_object(output: str) -> dict[str, Json]:
    """The keys of ``output``, if it is a JSON object that every database can store."""
    if not output.startswith("{"):
        return {}
    try:
        found = json.loads(output, parse_constant=_refuse_constant)
        text = json.dumps(found, ensure_ascii=False)
        if _NUL.search(text):
            return {}
        text.encode()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
