"""The device that computes: a real engine on the CPU, asked again after evictions and compared with a cold run."""
