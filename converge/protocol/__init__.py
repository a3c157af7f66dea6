"""The protocol: what is planned and decided is pure; each verb is one transaction.

``request`` works out what a caller asks for, before a transaction begins, and ``answer`` decides
what becomes of it; ``start`` plans a traversal (``plan``) and inserts its sync points; ``claim``
takes ready nodes and decides what to do (``decide``); ``call`` calls the handler; ``complete``
writes the outcome and arrives at the successors; ``replace`` inserts a resource's replacement;
``halt`` and ``finish`` end a traversal; ``rollback`` chooses the version to go back to; ``forget``
drops a resource without deleting it; ``recover`` repairs what dead engines left.
"""
