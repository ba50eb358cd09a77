"""Runs over HTTP, on any server that speaks OpenAI's API."""
