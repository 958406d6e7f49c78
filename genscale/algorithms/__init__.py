"""Algorithms that several samplers share: particle filter, beam and tree search, gradient ascent on noise."""
