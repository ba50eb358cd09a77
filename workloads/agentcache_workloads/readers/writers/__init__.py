"""Traces as files: `agentkv-trace/1`, and what other replayers read."""
