"""The raw limit of one connection: UPDATE of one row and COMMIT, again and again."""

from __future__ import annotations

import time

from sqlalchemy.engine import URL

from benchmarks.measuring import connect_raw


class Raw:
    """One psycopg connection that does nothing but commit.

    :param seconds: for how long each :meth:`rate` does it.
    """

    ROWS = 1000

    def __init__(self, url: URL, seconds: float) -> None:
        self.seconds = seconds
        self._connection = connect_raw(url)
        execute = self._connection.execute
        execute("CREATE TABLE raw_limit (id integer PRIMARY KEY, n integer NOT NULL)")
        execute("INSERT INTO raw_limit SELECT g, 0 FROM generate_series(0, 999) g")
        self._connection.commit()

    def rate(self) -> float:
        """UPDATE of one row and COMMIT, how often in a second."""
        connection, done = self._connection, 0
        begin = time.perf_counter()
        while (taken := time.perf_counter() - begin) < self.seconds:
            connection.execute("UPDATE raw_limit SET n = n + 1 WHERE id = %s", (done % self.ROWS,))
            connection.commit()
            done += 1
        return done / taken

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
