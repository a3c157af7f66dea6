"""The engine: threads around the protocol.

``engine`` is the public class; ``run`` is one run of it, from start to stop; ``core`` reads and
writes the database under one id; ``tenure`` is its work under one lease, ``window`` how much of
it there may be; ``workers`` call handlers; ``outbox`` keeps outcomes until they are written;
``observer`` is told of it all.
"""

from converge.engine.engine import Engine
from converge.engine.observer import Observer

__all__ = ["Engine", "Observer"]
