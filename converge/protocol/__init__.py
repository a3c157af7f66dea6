"""The protocol: what is planned and decided is pure; each verb is one transaction.

``start`` plans a traversal (``plan``) and inserts its sync points; ``claim`` takes what is ready
and decides (``decide``); ``call`` calls the handler; ``complete`` writes what became of it and
arrives at the successors; ``replace`` puts another row in its place; ``halt`` and ``finish`` end a
traversal; ``recover`` puts right what deaths left behind.
"""
