"""Kernels: how the scores of a format and their derivatives are computed."""
