"""Keys, and texts that are encrypted with them.

A text is encrypted by Fernet of the library ``cryptography`` (AES-128 in CBC mode, with an HMAC),
which is imported when there is a key. Each time it becomes another text, so nothing may compare
encrypted texts: what must be compared is made :meth:`~Keyring.blind`.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from converge.errors import BadInput, SecretKeyError

#: What an encrypted text begins with, and no JSON does.
PREFIX = "sealed:"
#: Texts in which there is nothing to hide; most attributes are such.
_EMPTY = frozenset(("", "{}", "[]", "null"))
_KEY = "CONVERGE_SECRET_KEY"
_FILE = "CONVERGE_SECRET_KEY_FILE"
_SIZE = 16


class Keyring:
    """The keys of a process.

    :ivar fingerprints: of the keys, in their order.
    """

    def __init__(self, keys: Sequence[str], where: str = "the keys") -> None:
        """:param keys: each 32 bytes in URL-safe base64; the first one encrypts.
        :param where: where they are from, for messages.
        :raises BadInput: one is no key, or ``cryptography`` is not installed.
        """
        self._raw = [_check(key, number, where) for number, key in enumerate(keys, 1)]
        if not self._raw:
            raise BadInput(f"there is no key in {where}; to make one, run: converge db new-key")
        try:
            from cryptography.fernet import Fernet
        except ImportError as error:
            raise BadInput(
                f"there is a key in {where}, but the package cryptography is not installed; type: "
                "pip install cryptography"
            ) from error
        self._fernets = [Fernet(urlsafe_b64encode(raw)) for raw in self._raw]
        self.fingerprints = tuple(map(_fingerprint, self._raw))
        self.choose(self.fingerprints[0])

    def choose(self, fingerprint: str) -> None:
        """Encrypt with the key of this fingerprint."""
        from cryptography.fernet import MultiFernet

        at = self.fingerprints.index(fingerprint)
        order = [at, *(other for other in range(len(self._raw)) if other != at)]
        self.chosen = fingerprint
        self._own: Any = self._fernets[at]
        self._all: Any = MultiFernet([self._fernets[index] for index in order])
        self._blinding = blake2b(self._raw[at], digest_size=32, person=b"converge basis").digest()

    def seal(self, text: str) -> str:
        """A text, encrypted. It is ASCII."""
        if text in _EMPTY:
            return text
        sealed: bytes = self._own.encrypt(text.encode())
        return PREFIX + sealed.decode("ascii")

    def unseal(self, stored: str) -> str:
        """The text that was encrypted with any of the keys; another one as it is.

        :raises SecretKeyError: it was encrypted with another key, or has been changed.
        """
        if not stored.startswith(PREFIX):
            return stored
        return self._decrypt(self._all, stored)

    def is_current(self, stored: str) -> bool:
        """Whether a stored text is as :meth:`seal` would make it now."""
        if not stored.startswith(PREFIX):
            return stored in _EMPTY
        try:
            self._decrypt(self._own, stored)
        except SecretKeyError:
            return False
        return True

    @staticmethod
    def _decrypt(fernet: Any, stored: str) -> str:
        from cryptography.fernet import InvalidToken

        try:
            text: bytes = fernet.decrypt(stored[len(PREFIX) :].encode("ascii"))
        except InvalidToken:
            raise SecretKeyError(
                "a value in the database cannot be decrypted: it was encrypted with a key that "
                "this process does not have, or has been changed since"
            ) from None
        return text.decode()

    def blind(self, digests: str) -> str:
        """Digests, made such that nobody without the key can find out what they are of by trying.
        The same are the same.

        :param digests: one or more, each of 32 hexadecimal digits, one behind the other.
        """
        width = 2 * _SIZE
        parts = (digests[start : start + width] for start in range(0, len(digests), width))
        return "".join(
            blake2b(part.encode(), key=self._blinding, digest_size=_SIZE).hexdigest()
            for part in parts
        )


def new_key() -> str:
    """A new random key."""
    return urlsafe_b64encode(os.urandom(32)).decode("ascii")


def read_keyring(
    keys: str | Iterable[str] | None, environment: Mapping[str, str]
) -> Keyring | None:
    """The keys that were given, or else those of the environment; None if there are none.

    :raises BadInput: one is no key, or they cannot be read.
    """
    if keys is not None:
        given = [keys] if isinstance(keys, str) else list(keys)
        return Keyring(given, "secret_keys") if given else None
    text, path = environment.get(_KEY), environment.get(_FILE)
    if text and path:
        raise BadInput(f"both {_KEY} and {_FILE} are set; keep one of them")
    if text:
        return Keyring(re.split(r"[\s,]+", text.strip(" \t\r\n,")), _KEY)
    if not path:
        return None
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise BadInput(f"{_FILE} names {path!r}, which cannot be read: {why}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    return Keyring(found, f"{path!r}, which {_FILE} names")


def missing_key(fingerprint: str | None = None) -> SecretKeyError:
    """The error for a process that has no key, where one is needed."""
    which = "" if fingerprint is None else f" with the key {fingerprint}"
    return SecretKeyError(
        f"values in this database are encrypted{which}, and this process has no key: name the "
        f"file that has it in {_FILE}"
    )


def _check(key: str, number: int, where: str) -> bytes:
    try:
        raw = urlsafe_b64decode(key.encode("ascii"))
    except (ValueError, AttributeError):
        raw = b""
    if len(raw) != 32:
        raise BadInput(
            f"key {number} in {where} is not a key: it must be 32 bytes in URL-safe base64; to "
            "make one, run: converge db new-key"
        )
    return raw


def _fingerprint(raw: bytes) -> str:
    return blake2b(raw, digest_size=4, person=b"converge key").hexdigest()
