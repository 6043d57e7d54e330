"""Terminal output: progress bars, tables and messages."""
