"""Adapters for other frameworks: one module and one extra each, so that only what is used is imported.

Each module is named after its framework and has one class, which is named after the framework's own term
for a reranker. All of them take the model in the same way: see ``crossrank.integrations.ranker``.
"""
