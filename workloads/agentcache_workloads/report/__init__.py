"""The report: one self-contained HTML page of a replay, made from its JSON alone."""
