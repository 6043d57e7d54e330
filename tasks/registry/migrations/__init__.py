"""Alembic migrations of the registry's schema, run by `tasks.registry.database`, never manually.

A new revision is one file in `versions/`. Write it by hand, with the last revision as a template,
and name that revision in `down_revision`. `tests/unit/test_registry.py` checks that the upgrade
results in the tables of `tasks/registry/tables.py` and that the downgrade works.
"""
