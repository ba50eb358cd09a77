"""Policies of other systems, each from its published rule."""
