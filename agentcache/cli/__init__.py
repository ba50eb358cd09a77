"""The command line `agentcache`: one lazily loaded group, and the commands that start or look into an engine."""
