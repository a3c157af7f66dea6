"""An open transaction, and the time in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, CursorResult, literal
from sqlalchemy.types import Double

from converge.bus.hint import News
from converge.sql.types import clock, keyring_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Executable
    from sqlalchemy.sql.elements import ColumnElement

    from converge.sealing import Keyring

# made once, as every statement that records a step contains it
_NOW = cast("ColumnElement[float]", clock())


class Transaction:
    """An open transaction: what every function of the store takes first.

    :ivar connection: the SQLAlchemy connection, for the host's own statements.
    :ivar dialect: the name of its SQLAlchemy dialect.
    :ivar news: what others are told of after the commit.
    """

    def __init__(self, connection: Connection, clock: Callable[[], float] | None) -> None:
        self.connection = connection
        self.dialect = connection.dialect.name
        self.news = News()
        self._clock = clock

    def execute(
        self,
        statement: Executable,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Execute one statement."""
        return cast("CursorResult[Any]", self.connection.execute(statement, parameters))

    @property
    def keyring(self) -> Keyring | None:
        """What values are encrypted with; None if they are not."""
        return keyring_of(self.connection.dialect)

    def seal(self, text: str) -> str:
        """A text that may be secret as it is stored: for statements that know no types."""
        keyring = self.keyring
        return text if keyring is None else keyring.seal(text)

    def blind(self, digests: str) -> str:
        """Digests as they are stored: see :meth:`converge.sealing.Keyring.blind`."""
        keyring = self.keyring
        return digests if keyring is None else keyring.blind(digests)

    @property
    def given_time(self) -> float | None:
        """The time, in seconds since 1970, if it does not come from the database; for tests."""
        return None if self._clock is None else self._clock()

    @property
    def now(self) -> ColumnElement[float]:
        """The time, in seconds since 1970, as an SQL expression."""
        given_time = self.given_time
        return _NOW if given_time is None else literal(given_time, Double())


if TYPE_CHECKING:
    #: What a host may pass, so that something happens in the host's own transaction.
    HostTransaction = Transaction | Connection | Session
