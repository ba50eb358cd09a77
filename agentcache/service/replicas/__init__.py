"""How a call reaches an engine and its answer comes back."""
