"""Flows: which stages run, in which order, with which decisions between them. No tensors here."""
