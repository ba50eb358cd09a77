"""Workloads: agent traces read, cut, and replayed against a real engine, with a report of what came out."""
