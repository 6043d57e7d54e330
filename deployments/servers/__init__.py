"""Servers: the local platform (Prefect, MLflow), its access rules, and the served deployments."""
