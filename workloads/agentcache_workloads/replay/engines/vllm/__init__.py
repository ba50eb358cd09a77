"""Runs on vLLM, each in a fresh process."""
