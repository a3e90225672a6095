"""Checking certificates with arithmetic of its own; imports nothing from ``certificates``."""
