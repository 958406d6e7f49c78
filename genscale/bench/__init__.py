"""Benchmarks: their prompts, and images and videos where their official scorers look for them."""
