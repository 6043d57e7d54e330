"""The outside: the `erpd` command and the servers it starts."""
