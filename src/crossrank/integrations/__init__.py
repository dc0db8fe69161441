"""CrossRank in other people's frameworks: one module and one extra for each, imported only when asked for.

A module here is named after its framework, and holds one class, named after the framework's own word for
what it is. All take the model by the same argument: see ``crossrank.integrations.ranker``.
"""
