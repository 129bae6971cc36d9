"""Times against the peers and against hand-written floors: `make bench`, or `python -m benchmarks [--only NAME] [--write]`."""
