"""What runs before vLLM is imported: environments, command lines, small models to try."""
