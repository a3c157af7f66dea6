"""Reads for people: ``queries`` is what can be asked, ``views`` and ``why`` are the answers."""
