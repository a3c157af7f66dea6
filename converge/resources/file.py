"""The ``file`` resource: a file with a given content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from converge.errors import BadInput, ConvergeError, Replace
from converge.model import Physical
from converge.resource_type import Context, Property, ResourceType

DEFAULT_MODE = 0o644
#: The longest physical id.
PATH_LENGTH = 1024


class FileError(ConvergeError):
    """A file cannot be written, read or removed; the message names it and says why."""


class File(ResourceType):
    """A text file (UTF-8), written as a whole and atomically: whoever reads it sees the old
    content or the new one, and a crash leaves one of the two.

    Properties: ``path`` (a relative one starts at the current directory of the engine that
    creates the file, and is made absolute once), ``content`` (default: empty), and ``mode``
    (default ``"0644"``, whatever the umask). Missing parent folders are created, and stay when
    the file is deleted. If the path is a symbolic link, the link is replaced and what it points
    to is left alone.

    The physical id is the absolute path. Attributes: ``path``, ``sha256``, ``size`` (bytes), and
    ``identity`` (for converge's own use). Another path makes another file, and removes this one.

    Delete removes the file only while it is the one that this resource wrote, edited in place or
    not: a file that another resource or program has put at the same path since then stays.

    :param roots: the folders, if any, in and below which files are written, looked at and removed,
        and nowhere else. A symbolic link in a path is followed only if it leads into one of them.
        That is looked at before each access: whoever can swap a folder for a link at that very
        moment is not kept out, and neither is a ``command``.
    :raises BadInput: if one of them is no folder.
    """

    schema: ClassVar[Mapping[str, Property]] = {
        "path": Property(str, required=True),
        "content": Property(str),
        # a string or a number: see parse_mode
        "mode": Property(object),
    }

    def __init__(self, roots: Iterable[str | os.PathLike[str]] = ()) -> None:
        if isinstance(roots, str | os.PathLike):
            raise BadInput(f"roots must be a list of folders, not {roots!r}")
        self.roots = tuple(_root(folder) for folder in roots)

    def create(self, context: Context, properties: Mapping[str, Any]) -> Physical:
        """Write the file.

        :raises BadInput: for a bad property.
        :raises FileError: if it cannot be written.
        """
        data, mode = _content(properties), parse_mode(properties.get("mode"))
        path = _absolute(properties["path"])
        known = context.physical_id
        if known and _same_relative(properties["path"], known):
            path = known
        self._confine("write", path)
        if known and known != path:
            # an earlier attempt, from an older definition, may have written another file
            self.delete(context, known)
        context.record(path)
        return _write(path, data, mode)

    def update(
        self,
        context: Context,
        physical_id: str,
        properties: Mapping[str, Any],
        previous: Mapping[str, Any],
    ) -> Physical:
        """Write it again.

        :raises Replace: if the path is another one.
        :raises BadInput: for a bad property.
        :raises FileError: if it cannot be written.
        """
        data, mode = _content(properties), parse_mode(properties.get("mode"))
        if properties["path"] != previous.get("path") and (
            _absolute(properties["path"]) != physical_id
        ):
            raise Replace(f"the path changes from {physical_id!r} to {properties['path']!r}")
        self._confine("write", physical_id)
        return _write(physical_id, data, mode)

    def check(self, context: Context, physical_id: str, properties: Mapping[str, Any]) -> None:
        """Compare the real file with what it should be.

        :raises FileError: if it is missing or unreadable, or content or mode differ.
        """
        # to read is to follow the last link, too
        self._confine("read", physical_id, os.path.realpath(physical_id))
        try:
            with open(physical_id, "rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise FileError(f"cannot read {physical_id!r}: {error.strerror}") from error
        if digest != hashlib.sha256(_content(properties)).hexdigest():
            raise FileError(f"the content of {physical_id!r} was changed by something else")
        wanted = parse_mode(properties.get("mode"))
        if mode != wanted:
            raise FileError(f"the mode of {physical_id!r} is {mode:04o}, not {wanted:04o}")

    def delete(self, context: Context, physical_id: str) -> None:
        """Remove the file, if it is (still) there and (still) ours.

        :raises FileError: if there is a folder in its place, or it cannot be removed.
        """
        self._confine("delete", physical_id)
        try:
            there = os.lstat(physical_id)
            if stat.S_ISDIR(there.st_mode):
                raise FileError(f"cannot delete {physical_id!r}: it is a directory now")
            if _is_ours(physical_id, there, context):
                os.unlink(physical_id)
                _sync_directory(os.path.dirname(physical_id))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise FileError(f"cannot delete {physical_id!r}: {error.strerror}") from error

    def _confine(self, verb: str, path: str, real: str | None = None) -> None:
        """:param real: where ``path`` leads; None for the place of its last name itself."""
        if not self.roots:
            return
        if real is None:
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not any(real.startswith(os.path.join(root, "")) for root in self.roots):
            leads = "" if real == path else f" leads to {real!r}, which"
            raise FileError(
                f"cannot {verb} {path!r}: it{leads} is outside of "
                f"{', '.join(map(repr, self.roots))}, the only place for files here"
            )


def _root(folder: str | os.PathLike[str]) -> str:
    if not isinstance(folder, str | os.PathLike) or not os.path.isdir(folder):
        raise BadInput(f"roots: {str(folder)!r} is no folder")
    return os.path.realpath(os.fspath(folder))


def parse_mode(mode: object) -> int:
    """The permission bits meant by a ``mode`` property.

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
            "put it into quotes, or build the text with str_replace or list_join"
        )
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"content cannot be written as UTF-8: {error.reason}") from error


def _absolute(path: object) -> str:
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadInput(f"path must be a string that names a file, not {path!r}")
    if path.endswith(("/", "/.", "/..")) or path in {".", ".."}:
        raise BadInput(f"path {path!r} names a directory; add the file's name")
    absolute = os.path.abspath(path)
    if len(absolute) > PATH_LENGTH:
        raise BadInput(
            f"path {absolute[:60]!r}... has {len(absolute)} characters; "
            f"at most {PATH_LENGTH} are allowed"
        )
    return absolute


def _same_relative(path: str, known: str) -> bool:
    """Whether ``known`` is where another engine, with another current directory, put ``path``."""
    return not os.path.isabs(path) and known.endswith(os.sep + os.path.normpath(path))


def _write(path: str, data: bytes, mode: int) -> Physical:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot write {path!r}: the folder {folder!r} cannot be created: {error.strerror}"
        ) from error
    try:
        identity = _write_and_rename(path, data, mode)
        _sync_directory(folder)
    except OSError as error:
        raise FileError(f"cannot write {path!r}: {error.strerror}") from error
    attributes = {
        "path": path,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "identity": identity,
    }
    return Physical(path, attributes)


def _write_and_rename(path: str, data: bytes, mode: int) -> str:
    descriptor, temporary = tempfile.mkstemp(prefix=".converge-", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            # the kernel's own time stamps are so coarse that two quick writes can share one
            now = time.time_ns()
            os.utime(file.fileno(), ns=(now, now))
            os.fsync(file.fileno())
            written = os.fstat(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return f"{written.st_ino}/{written.st_mtime_ns}"


def _sync_directory(folder: str) -> None:
    """Make a rename or a removal survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_ours(path: str, there: os.stat_result, context: Context) -> bool:
    """Whether the file at ``path`` is the one that the resource wrote.

    The inode stays when somebody edits the file in place. The time stamp stays when the file is
    restored or moved to another disk. Whoever writes a new file over it changes both, also with
    the same content; so the old name of a renamed resource does not delete the new one's file.
    """
    if not stat.S_ISREG(there.st_mode):
        # a link, say, may be given the inode of the file that it took the place of
        return False
    identity = context.attributes.get("identity")
    if isinstance(identity, str):
        inode, _, modified = identity.partition("/")
        return str(there.st_ino) == inode or str(there.st_mtime_ns) == modified
    # create was interrupted, so it is not known whether it had written yet
    return Path(path).read_bytes() == _content(context.properties)
