"""The attention backend of multi-segment steps: AgentCache's Triton kernels behind vLLM's `CUSTOM` backend."""
