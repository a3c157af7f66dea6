"""The engine: threads around the protocol.

``engine`` is the face; ``run`` is one life of it, from start to stop; ``core`` deals with the
database under one id; ``tenure`` is what it has under one lease; ``workers`` call handlers; and
``outbox`` keeps outcomes on their way into the database.
"""

from converge.engine.engine import Engine

__all__ = ["Engine"]
