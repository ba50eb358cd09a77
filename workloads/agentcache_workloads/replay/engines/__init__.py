"""What runs turns: the simulator, vLLM in a process of its own, any server over HTTP."""
