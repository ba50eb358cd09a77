"""Replay of recorded agent jobs against a real engine: plan, render, drive, measure, report."""
