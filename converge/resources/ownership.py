"""Which file is a resource's own, and where it keeps the one that it replaced.

A resource marks the files that it writes with an extended attribute, which stays with the file. So
it recognizes its own file after a crash, and after somebody restored or edited it. On a file system
without extended attributes it recognizes the file by inode and time stamp, which are known once a
write is recorded, and before that by the content.

A resource that replaces a file keeps it beside its own, as a hard link, so that there is a file at
every moment. It keeps a foreign file that it adopts, and one of the same stack: of a resource that
has another name now, or of an older version. Such a file still belongs to that other resource,
which finds it there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Container, Iterator

from converge.resources.resource_type import Context

#: The name of the extended attribute; its value is the stack's token and the resource's.
_ATTRIBUTE = "user.converge"
#: Errors of a file system that does not support it, or not for this user.
_CANNOT = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EMLINK)


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other resources of this host away from the files in a folder, where the system can: a
    resource with a new name may take a file over while the old one is deleted."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def put_mark(descriptor: int, context: Context) -> None:
    """Mark a file as this resource's, where the file system can."""
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(descriptor, _ATTRIBUTE, _mark(context).encode())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise


def is_of_stack(path: str, context: Context) -> bool:
    """Whether the file carries the mark of a resource of this stack."""
    return _is_of_stack(_read_mark(path), context)


def find_own(path: str, context: Context, digests: Container[str]) -> str | None:
    """Where the file is that this resource made: at its path, or kept by the resource that
    replaced it there. None if it is not found.

    :param digests: SHA-256 of what this resource may have written without recording it.
    """
    place, seen = path, set()
    while place not in seen:
        seen.add(place)
        try:
            there = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(there.st_mode):
            # a link, for example, may be given the inode of the file that it replaced
            return None
        mark = _read_mark(place)
        if mark == _mark(context):
            return place
        if not mark:
            has_marks = mark is not None
            is_own = _is_recorded(there, context, has_marks=has_marks) or (
                # nothing was there when the path was recorded
                not has_marks and context.physical_id == path and _digest(place) in digests
            )
            return place if is_own else None
        if not _is_of_stack(mark, context):
            return None
        place = _kept_by(path, mark)
    return None


def kept_at(path: str, context: Context) -> str:
    """Where this resource keeps the file that it replaced at ``path``."""
    return _kept_by(path, _mark(context))


def keep(path: str, kept: str) -> None:
    """Keep the file at ``path``, which is about to be overwritten.

    :raises OSError: if that cannot be done.
    """
    try:
        os.link(path, kept, follow_symlinks=False)
    except FileExistsError:
        # it is the same file if an interrupted attempt kept it
        if not os.path.samestat(os.lstat(path), os.lstat(kept)):
            raise
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        # the system has no hard links, or none to files of other users
        os.rename(path, kept)


def publish(temporary: str, path: str) -> None:
    """Give a finished file its name, unless another one has it.

    :raises FileExistsError: another one has it.
    :raises OSError: if it cannot be done.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def _mark(context: Context) -> str:
    return f"{context.stack_token}/{context.resource_token}"


def _is_of_stack(mark: str | None, context: Context) -> bool:
    return bool(mark) and str(mark).startswith(f"{context.stack_token}/")


def _read_mark(path: str) -> str | None:
    """The mark of a file, empty if it has none; None if the file system has no marks."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        return os.getxattr(path, _ATTRIBUTE, follow_symlinks=False).decode(errors="replace")
    except OSError as error:
        return None if error.errno in _CANNOT else ""


def _kept_by(path: str, mark: str) -> str:
    folder, name = os.path.split(path)
    key = hashlib.sha256(f"{mark}/{name}".encode(errors="surrogateescape")).hexdigest()[:24]
    return os.path.join(folder, f".converge-kept-{key}")


def _is_recorded(there: os.stat_result, context: Context, *, has_marks: bool) -> bool:
    """Whether an unmarked file is that of the last recorded write.

    The time stamp survives a restore or a move to another disk, the inode an edit in place; but a
    new file may be given the inode of one that is gone. A new file written over it changes both.
    """
    identity = context.attributes.get("identity")
    if not isinstance(identity, str):
        return False
    inode, _, modified = identity.partition("/")
    return str(there.st_mtime_ns) == modified or (not has_marks and str(there.st_ino) == inode)


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
