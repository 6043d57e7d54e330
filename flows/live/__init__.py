"""Live view: what Prefect's UI shows of a campaign while it runs."""
