"""Reads for people: ``queries`` has the questions, ``views`` and ``why`` the answers."""
