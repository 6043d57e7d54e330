"""Reading of untrusted paths, YAML, text and files within limits, and safe display of text."""
