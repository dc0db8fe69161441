"""The service: the library's four steps behind one scheduler, for every rerank API."""
