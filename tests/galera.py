"""A Galera cluster of the tests' own: three MariaDB servers on this machine."""

from __future__ import annotations

import uuid
from glob import glob

from sqlalchemy import make_url

from tests.backends import Backend, UnavailableError
from tests.servers import OwnMariaDB, free_port

NODES = 3
_LIBRARIES = ("/usr/lib/galera/libgalera_smm.so", "/usr/lib*/galera*/libgalera_smm.so")
#: Seconds after which a node that does not answer is suspected to be dead, and is taken for it.
_PATIENCE = (2, 4)


class Node(OwnMariaDB):
    """One node.

    :ivar group: the port by which the nodes know it.
    """

    def __init__(self, number: int, cluster: OwnGalera) -> None:
        super().__init__()
        self.number = number
        self.group = free_port()
        self._transfer = free_port()
        self._cluster = cluster

    def probe(self) -> str:
        """Look for the library, too."""
        version = super().probe()
        self._library()
        return version

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._process is not None

    def take_files(self, first: Node | None) -> None:
        """Make its files, or copy them from a node that has just made its own.

        A node gets no files from others when it joins, as its own seem to be where the cluster is:
        the first one starts at 0, and each that joins is one change further.
        """
        if first is None:
            self._prepare()
        else:
            self._make_folder()
            self._run("mkdir", str(self._tmp))
            self._copy(first.data, self.data)
        (self.data / "grastate.dat").unlink(missing_ok=True)
        (self._folder / "grastate").write_text(
            f"# GALERA saved state\nversion: 2.1\nuuid: {self._cluster.identity}\n"
            f"seqno: {self.number}\nsafe_to_bootstrap: {int(self.number == 0)}\n"
        )
        self._run("cp", str(self._folder / "grastate"), str(self.data / "grastate.dat"))

    def _library(self) -> str:
        for pattern in _LIBRARIES:
            for found in glob(pattern):
                return found
        raise UnavailableError("there is no libgalera_smm.so")

    def _command(self) -> list[str]:
        suspect, inactive = _PATIENCE
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{self.group}",
            "ist.recv_addr": f"127.0.0.1:{self._transfer}",
            "gcache.size": "16M",
            "gcache.page_size": "16M",
            "evs.keepalive_period": "PT0.4S",
            "evs.inactive_check_period": "PT0.5S",
            "evs.suspect_timeout": f"PT{suspect}S",
            "evs.inactive_timeout": f"PT{inactive}S",
            "evs.install_timeout": f"PT{inactive}S",
        }
        peers = ",".join(f"127.0.0.1:{node.group}" for node in self._cluster.nodes)
        options = {
            "innodb-buffer-pool-size": "16M",
            "innodb-autoinc-lock-mode": 2,
            "performance-schema": "OFF",
            "binlog-format": "ROW",
            "wsrep-on": "ON",
            "wsrep-provider": self._library(),
            "wsrep-cluster-name": "converge",
            "wsrep-cluster-address": f"gcomm://{peers}",
            "wsrep-node-address": f"127.0.0.1:{self.group}",
            "wsrep-sst-method": "skip",
            "wsrep-provider-options": ";".join(f"{name}={provider[name]}" for name in provider),
        }
        first = ["--wsrep-new-cluster"] if self.number == 0 else []
        return [*super()._command(), *(f"--{name}={options[name]}" for name in options), *first]

    def _answers(self) -> bool:
        return super()._answers() and self.ask("SHOW STATUS LIKE 'wsrep_ready'") == "ON"

    def ask(self, query: str) -> str:
        """The last column of the first row of a query's answer."""
        with self._connect() as connection, connection.cursor() as cursor:  # type: ignore[attr-defined]
            cursor.execute(query)
            return str(cursor.fetchone()[-1])


class OwnGalera(Backend):
    """The cluster. A node that is killed stays dead; :meth:`start` makes a new cluster then."""

    name = "own-galera"
    needs = f"{OwnMariaDB.needs}, and Galera's library libgalera_smm.so"

    def __init__(self) -> None:
        self.identity = str(uuid.uuid1())
        self.nodes: list[Node] = []

    def probe(self) -> str:
        """Look for the programs and the library; nothing is started yet."""
        return Node(0, self).probe()

    def start(self) -> None:
        """Start it, unless all its nodes run."""
        if self.nodes and all(node.is_running for node in self.nodes):
            return
        self.close()
        self.nodes = [Node(number, self) for number in range(NODES)]
        first, *others = self.nodes
        first.take_files(None)
        for node in others:
            node.take_files(first)
        # one after the other: the number of changes is in their files
        for node in self.nodes:
            node.start()

    def empty(self) -> str:
        """The URL of a new database, at the first node."""
        self.start()
        return self.nodes[0].empty()

    def migrated(self) -> str:
        """The same, with converge's schema."""
        self.start()
        return self.nodes[0].migrated()

    def through(self, node: Node, url: str) -> str:
        """The URL of the same database at another node."""
        return make_url(url).set(port=node.port).render_as_string(False)

    def discard(self, url: str) -> None:
        """Nothing to do: the folders are removed at the end."""

    def close(self) -> None:
        """Kill all nodes and remove their files."""
        for node in self.nodes:
            node.close()
        self.nodes = []
