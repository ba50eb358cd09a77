"""Admission: which turns may run at once, its names, its rule and what the rule counts."""
