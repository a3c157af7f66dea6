"""All SQL: one small module per noun, one function per statement or tight pair.

The transaction is the first argument of every function. Nothing above this package
imports SQLAlchemy, oslo.db or alembic.
"""
