"""Numerical routines on tensors and numbers that do not depend on diffusion models."""
