"""CrossRank and its peers side by side: what benchmarks/peers.py is made of."""
