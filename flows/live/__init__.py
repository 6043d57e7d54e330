"""Live view of a running campaign in Prefect's UI."""
