"""Measure, compare and report how well a model ranks, and verify its engine."""
