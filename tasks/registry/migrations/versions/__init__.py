"""Revisions of the schema, one file each, numbered from the oldest."""
