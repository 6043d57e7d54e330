"""The `erpd` command line, the deployed flows, and the servers that run them."""
