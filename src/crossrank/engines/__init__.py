"""Engines: a pack to one logit per pair. Engines know nothing of text."""

from crossrank.engines.base import MOST_THREADS, Device, Engine, Precision
from crossrank.engines.choose import choose_engine, load_engine

__all__ = ["MOST_THREADS", "Device", "Engine", "Precision", "choose_engine", "load_engine"]
