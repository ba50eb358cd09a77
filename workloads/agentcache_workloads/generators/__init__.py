"""Generators of traces: seeded, so that a name and a seed stand for the same trace everywhere."""
