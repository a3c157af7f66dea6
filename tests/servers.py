"""Database servers of the tests' own, which can be stopped, killed, and brought back from a copy of
their files: for what must not be done to the servers that others use, too.

They need nothing but the servers' programs, in the ``PATH`` or where packages put them.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import abstractmethod
from glob import glob
from pathlib import Path
from typing import ClassVar

from sqlalchemy import make_url

from tests.backends import Backend, PostgreSQL, UnavailableError

#: Seconds that a server may take to start or to stop.
LIMIT = 60.0
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin")


class OwnServer(Backend):
    """A server with its files in a folder of its own, on a port of its own."""

    #: The programs that it needs; the first one is the server.
    programs: ClassVar[tuple[str, ...]]
    #: Who runs it if the tests are run by root, whom servers refuse.
    user: ClassVar[str]

    def __init__(self) -> None:
        # not in pytest's: each session of root's takes all others' right to enter that
        self._folder = Path(tempfile.gettempdir()) / f"converge-{os.urandom(4).hex()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    # -- as a backend

    def probe(self) -> str:
        """Look for the programs; no server is started yet."""
        server, *_ = (self._find(name) for name in self.programs)
        self._check_user()
        said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"(\d+\.\d+(\.\d+)?)", said.stdout)
        if found is None:
            raise UnavailableError(f"{server} does not tell its version")
        return found[0]

    def _check_user(self) -> None:
        """:raises UnavailableError: root may not run it, and who may is not there."""
        if os.geteuid() == 0:
            try:
                pwd.getpwnam(self.user)
            except KeyError:
                raise UnavailableError(
                    f"root may not run it, and there is no {self.user}"
                ) from None

    def empty(self) -> str:
        """The URL of a new database; the server is started if it does not run."""
        if self._process is None:
            if not self.data.exists():
                self._prepare()
            self.start()
        return self._create()

    def migrated(self) -> str:
        """The URL of a new database with converge's schema."""
        from converge.sql import migrate

        url = self.empty()
        migrate.upgrade(url)
        return url

    def discard(self, url: str) -> None:
        """Nothing to do: the folder is removed at the end."""

    def close(self) -> None:
        """Kill the server and remove its files."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- as a server

    @property
    def data(self) -> Path:
        """Its files."""
        return self._folder / "data"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.port = self.port or free_port()
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )
        end = time.monotonic() + LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                log_text = (self._folder / "log").read_text(errors="replace")
                raise AssertionError(f"{self.programs[0]} does not start:\n{log_text[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it in order: all that was committed is in its files."""
        self._end(self._stop_signal)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        # the children of PostgreSQL's postmaster end when it is gone
        self._process.send_signal(number)
        self._process.wait(LIMIT)
        self._process = None

    def copy(self) -> None:
        """Keep a copy of all that is committed now; clients see a short outage."""
        self.stop()
        self._copy(self.data, self._folder / "copy")
        self.start()

    def forget(self) -> None:
        """Kill it, and go on from the copy: all that was committed since is forgotten."""
        self.kill()
        self._await_port()
        shutil.rmtree(self.data)
        self._copy(self._folder / "copy", self.data)
        self.start()

    def _await_port(self) -> None:
        """PostgreSQL's children may need a moment to see that the postmaster is gone."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", self.port))
                    return
                except OSError:
                    time.sleep(0.05)

    def _copy(self, source: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)

    # -- what they differ in

    @abstractmethod
    def _prepare(self) -> None:
        """Make the files of a server with nothing in it."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @abstractmethod
    def _create(self) -> str: ...

    _stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    # -- helpers

    @property
    def _user(self) -> str | None:
        return self.user if os.geteuid() == 0 else None

    @property
    def _group(self) -> int | None:
        return pwd.getpwnam(self.user).pw_gid if os.geteuid() == 0 else None

    def _find(self, program: str) -> str:
        found = shutil.which(program)
        for pattern in () if found else _PLACES:
            for place in sorted(glob(pattern), reverse=True):
                found = found or shutil.which(program, path=place)
        if not found:
            raise UnavailableError(f"there is no program {program}")
        return found

    def _run(self, *command: str) -> None:
        subprocess.run(
            command,
            cwd=self._folder,
            check=True,
            capture_output=True,
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
        )

    def _make_folder(self) -> None:
        """A folder that its user can write."""
        self._folder.mkdir()
        if self._user is not None:
            shutil.chown(self._folder, self.user, self._group)


class OwnPostgreSQL(OwnServer):
    """PostgreSQL, 13 or newer."""

    name = "own-postgresql"
    needs = "PostgreSQL's programs postgres and initdb"
    programs = ("postgres", "initdb")
    user = "postgres"
    # fast: sessions are ended
    _stop_signal = signal.SIGINT

    def _prepare(self) -> None:
        self._make_folder()
        self._run(
            *(self._find("initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        )

    def _command(self) -> list[str]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        settings = [part for item in options.items() for part in ("-c", f"{item[0]}={item[1]}")]
        return [self._find("postgres"), "-D", str(self.data), *settings]

    def _connect(self) -> object:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def _answers(self) -> bool:
        import psycopg

        try:
            self._connect().close()  # type: ignore[attr-defined]
        except psycopg.OperationalError:
            return False
        return True

    def _create(self) -> str:
        name = f"converge_test_{os.urandom(4).hex()}"
        with self._connect() as connection:  # type: ignore[attr-defined]
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"


class OwnMariaDB(OwnServer):
    """MariaDB, 10.6 or newer."""

    name = "own-mariadb"
    needs = "MariaDB's programs mariadbd and mariadb-install-db"
    programs = ("mariadbd", "mariadb-install-db")
    user = "mysql"

    def _prepare(self) -> None:
        self._make_folder()
        self._run("mkdir", str(self._tmp))
        self._run(
            *(self._find("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
            *("--skip-name-resolve", f"--tmpdir={self._tmp}"),
        )

    @property
    def _tmp(self) -> Path:
        """Its temporary tables. A server that starts removes all that it finds there, also those
        of another server, which crashes then."""
        return self._folder / "tmp"

    def _command(self) -> list[str]:
        options = {
            "datadir": self.data,
            "tmpdir": self._tmp,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self._folder / "socket",
            "pid-file": self._folder / "pid",
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-buffer-pool-size": "32M",
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        return [self._find("mariadbd"), "--no-defaults", "--skip-name-resolve", *settings]

    def _connect(self) -> object:
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", autocommit=True, ssl_disabled=True
        )

    def _answers(self) -> bool:
        import pymysql

        try:
            self._connect().close()  # type: ignore[attr-defined]
        except pymysql.err.OperationalError:
            return False
        return True

    def _create(self) -> str:
        name = f"converge_test_{os.urandom(4).hex()}"
        with self._connect() as connection, connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        options = "charset=utf8mb4&ssl_disabled=true"
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{name}?{options}"


class OwnPgbouncer(OwnServer):
    """pgbouncer in front of the PostgreSQL of all tests, with fewer sessions than clients.

    :param mode: its ``pool_mode``.
    """

    name = "own-pgbouncer"
    needs = "the program pgbouncer, and PostgreSQL"
    programs = ("pgbouncer",)
    user = "postgres"

    def __init__(self, mode: str = "transaction") -> None:
        super().__init__()
        self._mode = mode
        self._behind = PostgreSQL()

    def probe(self) -> str:
        """Look for the program, and for what is behind it."""
        version = super().probe()
        self._behind.probe()
        return version

    def empty(self) -> str:
        """The URL of a new database, through pgbouncer."""
        return self.through(self._behind.empty())

    _create = empty

    def through(self, url: str) -> str:
        """The URL of a database through pgbouncer, which is started if it does not run."""
        if self._process is None:
            self._target = make_url(url)
            self._prepare()
            self.start()
        return make_url(url).set(host="127.0.0.1", port=self.port).render_as_string(False)

    def _prepare(self) -> None:
        self._make_folder()
        self.port = free_port()
        target = self._target
        login = {"host": target.host, "port": target.port or 5432, "user": target.username}
        if target.password:
            login["password"] = str(target.password)
        (self._folder / "ini").write_text(
            "[databases]\n"
            f"* = {' '.join(f'{name}={value}' for name, value in login.items())}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {self._mode}\n"
            # in session mode each client has one for as long as it is connected
            f"default_pool_size = {4 if self._mode == 'transaction' else 50}\n"
        )

    def _command(self) -> list[str]:
        return [self._find("pgbouncer"), str(self._folder / "ini")]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        """Kill it, and drop the databases that it made."""
        super().close()
        self._behind.close()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
