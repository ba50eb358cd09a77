"""In the worker: rows with holes, and attention over their segments."""
