"""Models: check and import a base model, load and save policies, run them on sequences."""
