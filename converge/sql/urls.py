"""URLs of databases: how they are checked, and how they are shown without their secrets."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import exc as sa_exceptions
from sqlalchemy import make_url
from sqlalchemy.engine import URL

from converge.errors import BadInput
from converge.hiding import learn, learn_options, show_options, show_place

DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")
_ENCODE = "in a user, a password or an option, write % @ / : ? and & as %25 %40 %2F %3A %3F and %26"


def parse_url(url: str | URL) -> URL:
    """Read a database URL.

    :raises BadInput: it is not a URL, or is of a database that converge does not run on.
    """
    if isinstance(url, str):
        _check_login(url)
    parsed = None
    # not raised as a cause: it may quote a password
    with suppress(sa_exceptions.ArgumentError, ValueError):
        parsed = make_url(url)
    if parsed is None:
        raise BadInput(
            f"{show_place(url)} is not a database URL; one looks like sqlite:///converge.db or "
            f"postgresql+psycopg://user@host/name ({_ENCODE}; a port is a number)"
        )
    backend = parsed.get_backend_name()
    seen = (parsed.username, parsed.host, parsed.database, backend)
    learn([parsed.password], seen)
    learn_options(_options(parsed), seen)
    if backend not in DIALECTS:
        raise BadInput(
            f"converge does not run on {backend!r}; use sqlite, postgresql+psycopg or mysql+pymysql"
        )
    _check_parts(parsed, backend)
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    drivers["mariadb"] = "mariadb+pymysql"
    if parsed.drivername in drivers:
        parsed = parsed.set(drivername=drivers[parsed.drivername])
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise BadInput(
            "an SQLite database in memory cannot be shared by engines; "
            "name a file: sqlite:///converge.db"
        )
    return parsed


def _options(url: URL) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in url.query.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]


def _check_parts(url: URL, backend: str) -> None:
    """Check that the password is in its place.

    :raises BadInput: it is not, and would be shown as another part.
    """
    if backend == "sqlite":
        if url.host or url.username or url.password or url.port:
            raise BadInput(
                "a URL of SQLite has a file only: sqlite:///relative.db or sqlite:////absolute.db"
            )
        return
    if "@" in (url.host or "") or "@" in (url.database or ""):
        raise _torn(url.drivername + "://")


def _check_login(url: str) -> None:
    """Check that a text can be read as a URL in one way only.

    :raises BadInput: it cannot: for example, a part of the password may be taken for the host.
    """
    scheme, _, rest = url.partition("://")
    login = rest.rpartition("@")[0]
    if not scheme.startswith("sqlite") and not set(login).isdisjoint("@/?"):
        raise _torn(url)


def _torn(url: str) -> BadInput:
    return BadInput(
        f"{show_place(url)} cannot be read as a database URL: it has more than one @, or a / or ? "
        f"before it; {_ENCODE}"
    )


def show_url(url: URL) -> str:
    """A URL for people: without what is, or may be, secret."""
    shown = url.set(query={}).render_as_string(hide_password=True)
    return shown + show_options(_options(url))


def sqlite_path(url: URL) -> str | None:
    """The file of an SQLite database; None for another database, or if its name is a URI."""
    name = url.database
    if url.get_backend_name() != "sqlite" or name is None or name.startswith("file:"):
        return None
    return name
