"""What makes a message one of a group's: its signature.

A message is the text ``SIGNATURE BODY``. The body is canonical JSON (sorted keys, no spaces,
ASCII); the signature is the HMAC-SHA256, in 64 hexadecimal digits, of its bytes behind a fixed
prefix, with a secret that the members of the group share. It is checked before anything of the body
is read. Nothing in a message is secret, and it is not encrypted.

There may be two secrets at a time, so that one can be exchanged without a gap: the first signs,
both are accepted.

**Replay.** A sender numbers its messages. A queue keeps them in order, and whoever handles one
notes its number in the same transaction. What comes with a number that is noted already was
handled: a redelivery by the broker, a message that the sender repeated because it was not sure, or
one that somebody recorded and sent again. None of them is handled again.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from converge.canonical import dump
from converge.errors import BadInput
from converge.hiding import learn
from converge.model import Json

#: The version of the form of messages.
VERSION = 1
#: The shortest secret, in characters, and how many there may be.
LEAST_SECRET = 16
MOST_SECRETS = 2
#: The longest message, in bytes.
MOST_BYTES = 64 * 1024 * 1024

_PREFIX = b"converge group message 1\0"
_PROOF = b"converge group proof 1\0"
_WIRE = re.compile(rb"([0-9a-f]{64}) (\{.*\})", re.DOTALL)


class Refused(Exception):
    """A message is none of the group's.

    :ivar kind: ``unsigned``, ``forged``, ``foreign`` or ``malformed``: for counters.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Message:
    """What one member sends to the holder of a partition.

    :ivar group: the name of the group.
    :ivar generation: of its partitions: it grows when their number changes.
    :ivar partition: the number of one.
    :ivar sink: whose items they are.
    :ivar sender: who sends it: the same text for all messages that are numbered together.
    :ivar sequence: its number among them, from 1 on; only growing, perhaps with gaps.
    :ivar at: when it was made: seconds since 1970, by the sender's clock; for people.
    :ivar items: what it carries.
    """

    group: str
    generation: int
    partition: int
    sink: str
    sender: str
    sequence: int
    at: float
    items: Sequence[Json]


class Secrets:
    """The secrets of a group.

    :param texts: one or two; the first signs.
    :raises BadInput: there are none, or too many, or one is too short.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        given = list(texts)
        self._keys = [one.encode("utf-8", "surrogatepass") for one in given]
        learn(given)
        if not 1 <= len(given) <= MOST_SECRETS:
            raise BadInput(
                f"a group has one secret, or two while they are exchanged, not {len(given)}"
            )
        if any(len(one) < LEAST_SECRET for one in given):
            raise BadInput(f"a secret of a group has at least {LEAST_SECRET} characters")

    @classmethod
    def read(cls, text: str) -> Secrets:
        """The secrets in the text of a file: one a line, empty lines left out.

        :raises BadInput: see :class:`Secrets`.
        """
        return cls(line.strip() for line in text.splitlines() if line.strip())

    def __repr__(self) -> str:
        return f"<{len(self._keys)} secrets>"

    # -- messages

    def sign(self, message: Message) -> bytes:
        """A message as it is sent.

        :raises ValueError, TypeError: its items are not JSON.
        """
        body = dump({"v": VERSION, **asdict(message)}).encode("ascii")
        return _digest(self._keys[0], _PREFIX + body) + b" " + body

    def open(self, data: object, *, group: str, sink: str, partition: int) -> Message:
        """The message that :meth:`sign` made bytes of.

        :param group, sink, partition: of the queue that it was in.
        :raises Refused: it is none of this group's, or of another queue. Nothing of it was used.
        """
        text = data.encode("utf-8", "replace") if isinstance(data, str) else data
        if not isinstance(text, bytes | bytearray) or len(text) > MOST_BYTES:
            raise Refused("unsigned", "it is not text, or is too long")
        found = _WIRE.fullmatch(bytes(text))
        if found is None:
            raise Refused("unsigned", "it is not of the form SIGNATURE BODY")
        signature, body = found.groups()
        if not self._matches(signature, _PREFIX + body):
            raise Refused("forged", "it is not signed with a secret of this group")
        message = _read(body)
        place = (message.group, message.sink, message.partition)
        if place != (group, sink, partition):
            raise Refused(
                "foreign", f"it is for {_place(*place)}, not {_place(group, sink, partition)}"
            )
        return message

    # -- members

    def prove(self, *about: object) -> str:
        """A text that only who has the secret can make.

        :param about: what it is about: texts and numbers.
        """
        return _digest(self._keys[0], _about(about)).decode("ascii")

    def is_proof(self, proof: str, *about: object) -> bool:
        """Whether one of these secrets made this proof."""
        return self._matches(proof.encode("utf-8", "replace"), _about(about))

    def is_newest(self, proof: str, *about: object) -> bool:
        """Whether the secret that signs made this proof."""
        return hmac.compare_digest(proof.encode("utf-8", "replace"), self.prove(*about).encode())

    def _matches(self, signature: bytes, signed: bytes) -> bool:
        # no short cut: what is compared first must not be seen in how long it takes
        found = [hmac.compare_digest(signature, _digest(key, signed)) for key in self._keys]
        return any(found)


def _digest(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, sha256).hexdigest().encode("ascii")


def _about(about: Sequence[object]) -> bytes:
    return _PROOF + dump([str(one) for one in about]).encode("ascii")


def _place(group: str, sink: str, partition: int) -> str:
    return f"partition {partition} of sink {sink!r} of group {group!r}"


_FIELDS: dict[str, type] = {
    "group": str,
    "generation": int,
    "partition": int,
    "sink": str,
    "sender": str,
    "sequence": int,
    "at": float,
    "items": list,
}


def _read(body: bytes) -> Message:
    """The message of a body that is signed: by a member, but perhaps by one of another version.

    :raises Refused: this version does not know it.
    """
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("malformed", "its body is not JSON") from None
    version = document.pop("v", None)
    if version != VERSION or isinstance(version, bool):
        raise Refused("malformed", f"its version is {version!r}, and this program knows {VERSION}")
    if document.keys() != _FIELDS.keys() or any(
        type(document[name]) is not kind for name, kind in _FIELDS.items()
    ):
        raise Refused("malformed", f"its body must have {', '.join(_FIELDS)}, each of its type")
    return Message(**document)
