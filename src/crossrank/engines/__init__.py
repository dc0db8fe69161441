"""Engines: a pack to one logit per pair. Engines know nothing of text."""

from crossrank.engines.base import Device, Engine, Precision, choose_engine, load_engine

__all__ = ["Device", "Engine", "Precision", "choose_engine", "load_engine"]
