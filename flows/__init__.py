"""Composition only: which stages, in which order, with which decisions between them. No tensors."""
