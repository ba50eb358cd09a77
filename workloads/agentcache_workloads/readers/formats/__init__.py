"""One format a file: its records become the typed sessions of `trace`."""
