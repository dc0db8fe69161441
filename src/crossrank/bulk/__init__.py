"""Rerank a file of any size, resumably."""
