"""Measure, compare, verify and report the quality of a ranking."""
