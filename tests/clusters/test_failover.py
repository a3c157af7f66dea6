"""A URL that names several servers."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlalchemy import make_url

from converge.sql.database import Database
from tests.servers import free_port

ON_POSTGRESQL = pytest.mark.parametrize(
    "database",
    [pytest.param("postgresql", marks=[pytest.mark.database, pytest.mark.postgresql])],
    indirect=True,
)


@ON_POSTGRESQL
def test_of_several_hosts_one_that_takes_writes_is_used(database_url: str) -> None:
    url = make_url(database_url)
    hosts = [f"127.0.0.1:{free_port()}", f"{url.host}:{url.port or 5432}"]
    query = {"host": hosts, "target_session_attrs": "read-write"}
    several = url.set(host=None, port=None).update_query_dict(query)
    with closing(Database(several)) as database:
        name = database.read(
            lambda tx: tx.connection.exec_driver_sql("SELECT current_database()").scalar()
        )
    assert name == url.database
