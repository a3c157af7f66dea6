"""For programs of converge's own, before they use oslo.messaging."""

from __future__ import annotations

import sys


def choose_threads() -> None:
    """Have oslo.messaging use threads, and not import eventlet, which it would otherwise prefer and
    which would take half the time of its import. The choice is for the whole process."""
    if "oslo_messaging" in sys.modules:
        return
    # what is None cannot be imported
    sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]
    from oslo_service import backend

    backend.init_backend(backend.BackendType.THREADING)
