"""Measures what steps cost on a live engine: a grid of shapes, one engine, a plot of what the fit leaves."""
