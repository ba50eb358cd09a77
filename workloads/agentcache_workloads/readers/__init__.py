"""Readers of agent traces: every format becomes the typed sessions of `trace`."""
