"""Numerics on tensors and numbers; knows nothing of diffusion."""
