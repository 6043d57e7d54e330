"""Commands: the bodies of the `erpd` subcommands."""
