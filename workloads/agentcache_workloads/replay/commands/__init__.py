"""The commands of the replayer, from their flags to runs."""
