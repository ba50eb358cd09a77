"""The directory: one process that knows every context of the cluster, and what follows from that."""
