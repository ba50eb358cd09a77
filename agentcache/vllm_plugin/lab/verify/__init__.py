"""Exactness as an experiment on the real engine: evict, poison, ask again, compare with a cold run."""
