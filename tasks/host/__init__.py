"""Access to the host machine.

ERPD_HOME, service addresses, processes, signals, disk faults, atomic file writes.
"""
