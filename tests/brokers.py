"""A RabbitMQ of the tests' own, which can be stopped, started again, and emptied."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from glob import glob
from pathlib import Path

from tests.backends import UnavailableError
from tests.servers import LIMIT, OwnServer, free_port

# the program itself: the one in the PATH is a script that runs the machine's server
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_VERSIONS = "/usr/lib/rabbitmq/lib/rabbitmq_server-*"


class OwnRabbitMQ(OwnServer):
    """RabbitMQ, a node by itself, with a port mapper of its own."""

    name = "own-rabbitmq"
    needs = "RabbitMQ's programs, where Debian's and Red Hat's packages put them, and Erlang's epmd"
    programs = ("epmd",)
    user = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self._ports = (0, 0)

    def probe(self) -> str:
        """Look for the programs; no server is started yet."""
        self._find("epmd")
        self._check_user()
        found = re.search(r"rabbitmq_server-([0-9.]+)", max(glob(_VERSIONS), default=""))
        if found is None or not _PROGRAM.exists():
            raise UnavailableError(f"there is no {_PROGRAM}, or no {_VERSIONS}")
        return found[1]

    def empty(self) -> str:
        """The URL of a bus that nobody else uses; the server is started if it does not run."""
        if self._process is None:
            if not self.data.exists():
                self._prepare()
            self.start()
        return self._create()

    def migrated(self) -> str:
        """The same: there is no schema."""
        return self.empty()

    def restart(self) -> None:
        """Stop it in order, and start it again: what is durable is still there."""
        self.stop()
        self.start()

    def reset(self) -> None:
        """Kill it, and start one without a queue, an exchange or a message."""
        self.kill()
        shutil.rmtree(self.data)
        self.data.mkdir()
        if self._user is not None:
            shutil.chown(self.data, self._user, self._group)
        self.start()

    def close(self) -> None:
        """Kill the server and its port mapper, and remove its files."""
        super().close()
        if self._ports[1]:
            environment = {**os.environ, "ERL_EPMD_PORT": str(self._ports[1])}
            subprocess.run(
                ["epmd", "-kill"], env=environment, capture_output=True, check=False, timeout=LIMIT
            )

    def _prepare(self) -> None:
        self._make_folder()
        self._run("mkdir", str(self.data))
        self._ports = (free_port(), free_port())

    def _command(self) -> list[str]:
        folder, (distribution, mapper) = self._folder, self._ports
        variables = {
            "HOME": folder,
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": mapper,
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": folder / "none",
            "RABBITMQ_DIST_PORT": distribution,
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_MNESIA_BASE": self.data,
            "RABBITMQ_NODENAME": f"{folder.name}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_PID_FILE": folder / "pid",
        }
        settings = [f"{name}={value}" for name, value in variables.items()]
        return ["env", "-i", *settings, str(_PROGRAM)]

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        # a script, and the server
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait(LIMIT)
        self._process = None
        self._await_port()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            try:
                probe.connect(("127.0.0.1", self.port))
                # anything else than its protocol is answered with that
                probe.sendall(b"whatever")
                return probe.recv(4) == b"AMQP"
            except OSError:
                return False

    def _create(self) -> str:
        return f"rabbit://guest:guest@127.0.0.1:{self.port}/"
