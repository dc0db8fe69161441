"""What is done before a release: see the Makefile."""
