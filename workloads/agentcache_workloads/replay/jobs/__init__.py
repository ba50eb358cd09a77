"""Jobs out of a trace: which there are, what their prompts say, when their turns are due."""
