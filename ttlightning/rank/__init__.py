"""Ranks of weight tensors: proven bounds, measurements and certificates."""
