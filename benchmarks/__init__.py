"""Measurements of CrossRank, each a module that is run from the repository's root; README.md lists them."""
