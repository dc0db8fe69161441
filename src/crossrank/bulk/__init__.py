"""Rerank a file of any size; a job that was interrupted can be resumed."""
