"""Optimizers for weight tensors in a tensor format. No Lightning."""

from ttlightning.optim.core_muon import CoreMuon

__all__ = ["CoreMuon"]
