"""The ``file`` resource: a file with a given content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from converge.errors import BadInput, ConvergeError, Gone, Replace
from converge.model import Json, Physical
from converge.resources.ownership import (
    find_own,
    is_of_stack,
    keep,
    kept_at,
    locked,
    publish,
    put_mark,
)
from converge.resources.resource_type import Context, How, Planned, Property, Real, ResourceType

DEFAULT_MODE = 0o644
#: The longest physical id.
PATH_LENGTH = 1024
#: The most bytes that are read of a file that was changed.
CONTENT_LENGTH = 1024 * 1024


class FileError(ConvergeError):
    """A file cannot be written, read or removed; the message names it and says why."""


class File(ResourceType):
    """A text file (UTF-8), written as a whole and atomically: a reader sees the old content or the
    new one, and a crash leaves one of the two.

    Properties: ``path`` (a relative one starts at the template's folder, or at the current
    directory of the engine if the template is from no file, and is made absolute once),
    ``content`` (default: empty), ``mode`` (default ``"0644"``, whatever the umask), ``adopt`` and
    ``on_delete``. Missing parent folders are
    created, and stay when the file is deleted.

    If a file, or a symbolic link, already exists at the path, ``create`` fails and leaves it alone.
    With ``adopt: true`` the new file takes its place. The old one is kept beside it, under a name
    that begins with ``.converge-kept-``, and is put back, the very same file, when the resource is
    deleted. With ``on_delete: leave`` (instead of ``restore``) a delete leaves the file at the
    path, whether it was adopted or not, and removes the one that was kept.

    The physical id is the absolute path. Attributes: ``path``, ``sha256``, ``size`` (bytes),
    ``original`` (where the adopted file is kept, if there is one), and ``identity`` (for
    converge's own use). Another path makes another file, and removes this one.

    Update and delete touch only the file that this resource wrote, edited in place or not. If
    another file has been put at the path since then, an update fails (without ``adopt``), and a
    delete leaves it. The file of another resource of the same stack, or of an older version of
    this one, needs no ``adopt``: it is kept, too, until it is deleted, and is put back if the new
    one is deleted first, by a rollback.

    A file is recognized by an extended attribute (``user.converge``). Where the file system has
    none, it is recognized by its inode and time stamp, and the files of other resources of the
    stack count as foreign.

    :param roots: if any are given, files are written, read and removed only in these folders and
        below. A symbolic link in a path is followed only if it leads into one of them. This is
        checked before each access: it does not stop a program that swaps a folder for a link at
        that very moment, nor a ``command``.
    :raises BadInput: if one of them is not a folder.
    """

    schema: ClassVar[Mapping[str, Property]] = {
        "path": Property(str, required=True),
        # what refers to something that is not there must not empty the file
        "content": Property(str, nullable=False),
        # a string or a number: see parse_mode
        "mode": Property(object),
        "adopt": Property(bool),
        "on_delete": Property(str),
    }
    attribute_names: ClassVar[tuple[str, ...]] = ("path", "sha256", "size", "original", "identity")
    delete_properties: ClassVar[tuple[str, ...]] = ("on_delete",)
    adopt_property: ClassVar[str | None] = "adopt"
    relative_paths: ClassVar[bool] = True

    def __init__(self, roots: Iterable[str | os.PathLike[str]] = ()) -> None:
        if isinstance(roots, str | os.PathLike):
            raise BadInput(f"roots must be a list of folders, not {roots!r}")
        self.roots = tuple(_root(folder) for folder in roots)

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Write the file.

        :raises BadInput: for a bad property.
        :raises FileError: if something else is there, or it cannot be written.
        """
        writing = _Writing(context, properties)
        path = _absolute(properties["path"], context)
        known = context.physical_id
        if known and _same_relative(properties["path"], known):
            path = known
        self._confine("write", path)
        # before anything is recorded, as a recorded file will be deleted
        writing.find_place(path)
        if known and known != path:
            # an earlier attempt, from an older definition, may have written another file
            self.delete(context, known)
        if known != path:
            context.record(path)
        try:
            return writing.write(path)
        except _InTheWay:
            # another file came first; an earlier attempt may still have left its own
            if known != path:
                context.record(None)
            raise

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Write it again.

        :raises Replace: if the path has changed.
        :raises BadInput: for a bad property.
        :raises FileError: if something else is there now, or it cannot be written.
        """
        writing = _Writing(context, properties)
        if properties["path"] != previous.get("path") and (
            _absolute(properties["path"], context) != physical_id
        ):
            raise Replace(f"the path changes from {physical_id!r} to {properties['path']!r}")
        self._confine("write", physical_id)
        return writing.write(physical_id)

    def plan(
        self, context: Context, properties: Mapping[str, Any], previous: Mapping[str, Any] | None
    ) -> Planned:
        """Another path means another file; the rest is written again.

        :raises BadInput: for a bad property.
        """
        data = _content(properties)
        path = _absolute(properties["path"], context)
        if previous is not None and properties["path"] != previous.get("path"):
            if path != context.physical_id:
                return Planned(How.REPLACE, reason="path changes")
        elif previous is not None and context.physical_id is not None:
            path = context.physical_id
        known: dict[str, Json] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        if not (os.path.isabs(properties["path"]) or context.directory):
            # it depends on where the engine was started
            return Planned(attributes=known)
        return Planned(attributes=known | {"path": path}, physical_id=path)

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Compare the real file with what it should be.

        :raises FileError: if it is missing or unreadable, or content or mode differ.
        """
        # reading follows the last link, too
        self._confine("read", physical_id, os.path.realpath(physical_id))
        try:
            with open(physical_id, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise FileError(f"cannot read {physical_id!r}: {error.strerror}") from error
        if digest != hashlib.sha256(_content(properties)).hexdigest():
            raise FileError(f"the content of {physical_id!r} was changed outside of converge")
        wanted = parse_mode(properties.get("mode"))
        if mode != wanted:
            raise FileError(f"the mode of {physical_id!r} is {mode:04o}, not {wanted:04o}")

    def read(self, context: Context, physical_id: str) -> Real:
        """Read content and mode of the real file, and, of one that was never written, all of it.

        :raises Gone: if it is missing.
        :raises FileError: if it cannot be read.
        """
        path = physical_id if os.path.isabs(physical_id) else _absolute(physical_id, context)
        # reading follows the last link, too
        self._confine("read", path, os.path.realpath(path))
        known = _content(context.properties)
        try:
            with open(path, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                data = file.read(max(len(known), CONTENT_LENGTH) + 1)
                file.seek(0)
                digest = None if context.properties else hashlib.file_digest(file, "sha256")
                size = file.tell()
        except FileNotFoundError as error:
            raise Gone(f"there is no file {path!r}") from error
        except OSError as error:
            raise FileError(f"cannot read {path!r}: {error.strerror}") from error
        found: dict[str, Json] = {}
        if data != known:
            found["content"] = _as_text(data)
        if mode != parse_mode(context.properties.get("mode")):
            found["mode"] = f"{mode:04o}"
        if digest is None:
            return Real(found)
        # it was never written
        return Real(found, {"path": path, "sha256": digest.hexdigest(), "size": size})

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove the file, if it is still there and still this resource's, and put back the one
        that it replaced, if any.

        :raises BadInput: for a bad property.
        :raises FileError: if there is a folder in its place, or it cannot be removed.
        """
        self._confine("delete", physical_id)
        leaves = _leaves(context.properties)
        try:
            if os.path.isdir(physical_id) and not os.path.islink(physical_id):
                raise FileError(f"cannot delete {physical_id!r}: it is a folder now")
            with locked(os.path.dirname(physical_id)):
                kept = kept_at(physical_id, context)
                own = find_own(physical_id, context, _digests(context.properties))
                if own is None:
                    _give_back(kept, physical_id)
                elif not leaves and os.path.lexists(kept):
                    os.replace(kept, own)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(kept if leaves else own)
            _sync_directory(os.path.dirname(physical_id))
        except OSError as error:
            raise FileError(f"cannot delete {physical_id!r}: {error.strerror}") from error

    def _confine(self, verb: str, path: str, real: str | None = None) -> None:
        """:param real: where ``path`` leads; None: its last name is not followed."""
        if not self.roots:
            return
        if real is None:
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not any(real.startswith(os.path.join(root, "")) for root in self.roots):
            leads = "" if real == path else f" leads to {real!r}, which"
            raise FileError(
                f"cannot {verb} {path!r}: it{leads} is outside of the allowed roots: "
                f"{', '.join(map(repr, self.roots))}"
            )


def _root(folder: str | os.PathLike[str]) -> str:
    if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
        raise BadInput(f"roots: {str(folder)!r} is not a folder")
    return os.path.realpath(os.fspath(folder))


def _as_text(data: bytes) -> str:
    """The content of a file, or, where it cannot be a property, what there is instead."""
    if len(data) > CONTENT_LENGTH:
        return f"(more than {CONTENT_LENGTH} bytes)"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return f"({len(data)} bytes, not text, SHA-256 {hashlib.sha256(data).hexdigest()})"
    return text


def parse_mode(mode: object) -> int:
    """The permission bits of a ``mode`` property.

    :param mode: a string of three or four octal digits (``"0o"`` before them is allowed), or a
        number up to 0o777 (YAML reads an unquoted 0644 as one), or None for the default.
    :raises BadInput: for anything else.
    """
    if mode is None:
        return DEFAULT_MODE
    if isinstance(mode, str):
        digits = mode.removeprefix("0o")
        if 3 <= len(digits) <= 4 and all(digit in "01234567" for digit in digits):
            return int(digits, 8)
    elif isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode <= 0o777:
        # 644 without the leading zero is beyond 0o777, and so are 755, 700 and 600
        return mode
    raise BadInput(f'mode {mode!r} is not a file mode; write octal digits in quotes, like "0644"')


def _content(properties: Mapping[str, Any]) -> bytes:
    content = properties.get("content", "")
    if not isinstance(content, str):
        raise BadInput(
            f"content must be a string, not {type(content).__name__}; "
            "quote it, or build the text with str_replace or list_join"
        )
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"content cannot be written as UTF-8: {error.reason}") from error


def _absolute(path: object, context: Context) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadInput(f"path must be a string that names a file, not {path!r}")
    if path.endswith(("/", "/.", "/..")) or path in {".", ".."}:
        raise BadInput(f"path {path!r} names a folder; add the file's name")
    absolute = os.path.abspath(os.path.join(context.directory or "", path))
    if len(absolute) > PATH_LENGTH:
        raise BadInput(
            f"path {absolute[:60]!r}... has {len(absolute)} characters; "
            f"at most {PATH_LENGTH} are allowed"
        )
    return absolute


def _same_relative(path: str, known: str) -> bool:
    """Whether ``known`` is ``path``, as written by an engine with another current directory."""
    return not os.path.isabs(path) and known.endswith(os.sep + os.path.normpath(path))


class _InTheWay(FileError):
    """Something else is at the path."""


class _Writing:
    """One write of a file.

    :raises BadInput: for a bad property.
    """

    def __init__(self, context: Context, properties: Mapping[str, Any]) -> None:
        self.context = context
        self.data = _content(properties)
        self.mode = parse_mode(properties.get("mode"))
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.digests = {self.digest, *_digests(context.properties)}
        self.adopts = properties.get("adopt") is True
        _leaves(properties)

    def find_place(self, path: str) -> str | None:
        """Where this resource's file of an earlier write is, None if there is none.

        :raises FileError: another file is at the path.
        """
        try:
            own = find_own(path, self.context, self.digests)
            if own is None and os.path.lexists(path) and not self._may_keep(path):
                raise _InTheWay(
                    f"cannot write {path!r}: it already exists, and this resource did not make "
                    "it; move it away, or set adopt: true to replace it"
                )
        except OSError as error:
            raise FileError(f"cannot write {path!r}: {error.strerror}") from error
        return own

    def _may_keep(self, path: str) -> bool:
        there = os.lstat(path)
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
            raise FileError(f"cannot write {path!r}: it exists and is not a file")
        kept = kept_at(path, self.context)
        if os.path.lexists(kept) and not os.path.samestat(there, os.lstat(kept)):
            raise FileError(
                f"cannot write {path!r}: another file has replaced the one that this resource "
                f"made, and {kept!r} is the one that it adopted before; move one of the two away"
            )
        return self.adopts or is_of_stack(path, self.context)

    def write(self, path: str) -> Physical:
        """Write the file.

        :raises FileError: another file is there, or it cannot be written.
        """
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"cannot write {path!r}: the folder {folder!r} cannot be created: {error.strerror}"
            ) from error
        try:
            identity = self._write_and_publish(path)
            _sync_directory(folder)
        except FileExistsError as error:
            raise _InTheWay(
                f"cannot write {path!r}: another file was put there in the meantime"
            ) from error
        except OSError as error:
            raise FileError(f"cannot write {path!r}: {error.strerror}") from error
        attributes = {
            "path": path,
            "sha256": self.digest,
            "size": len(self.data),
            "identity": identity,
        }
        kept = kept_at(path, self.context)
        if os.path.lexists(kept):
            attributes["original"] = kept
        return Physical(path, attributes)

    def _write_and_publish(self, path: str) -> str:
        descriptor, temporary = tempfile.mkstemp(prefix=".converge-", dir=os.path.dirname(path))
        try:
            with open(descriptor, "wb") as file:
                file.write(self.data)
                file.flush()
                put_mark(file.fileno(), self.context)
                os.fchmod(file.fileno(), self.mode)
                # the kernel's own time stamps are so coarse that two quick writes can share one
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))
                os.fsync(file.fileno())
                written = os.fstat(file.fileno())
            with locked(os.path.dirname(path)):
                place = self.find_place(path)
                if place is None and os.path.lexists(path):
                    keep(path, kept_at(path, self.context))
                    place = path
                if place is None:
                    publish(temporary, path)
                else:
                    os.replace(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return f"{written.st_ino}/{written.st_mtime_ns}"


def _leaves(properties: Mapping[str, Any]) -> bool:
    """Whether a delete leaves the file."""
    wanted = properties.get("on_delete")
    if wanted not in (None, "restore", "leave"):
        raise BadInput(f"on_delete must be restore or leave, not {wanted!r}")
    return bool(wanted == "leave")


def _digests(properties: Mapping[str, Any]) -> set[str]:
    """SHA-256 of the content; empty if it is not valid."""
    try:
        return {hashlib.sha256(_content(properties)).hexdigest()}
    except BadInput:
        return set()


def _give_back(kept: str, path: str) -> None:
    """Put a kept file back in the place of one that is gone, unless another one is there."""
    if not os.path.lexists(kept):
        return
    if not os.path.lexists(path):
        os.rename(kept, path)
    elif os.path.samestat(os.lstat(kept), os.lstat(path)):
        # it had not been replaced yet
        os.unlink(kept)


def _sync_directory(folder: str) -> None:
    """Make a rename or a removal survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
