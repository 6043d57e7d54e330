"""How the registry's schema came about, for Alembic; run by `tasks.registry.database`, never by
hand.

A new revision is one file in `versions/`, written by hand (they are short): take the last one as
the pattern, name it in `down_revision`, and let `tests/unit/test_registry.py` say whether it leads
to the tables of `tasks/registry/tables.py`, and back.
"""
