"""Continuum's job scheduling (arXiv:2511.02230) over AgentCache: retention layers, adapters, client and converters."""
