"""The host: ERPD_HOME, service addresses, processes, signals, disk faults, durable file writes."""
