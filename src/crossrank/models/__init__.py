"""Resolve a model's name to its files, and read its weights from them."""
