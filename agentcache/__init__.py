"""AgentCache keeps multi-turn agent contexts in GPU memory across tool-call pauses, losslessly."""

__version__ = "0.1.0"
