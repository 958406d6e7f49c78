"""Samplers and verifiers by name: registry, options, descriptions."""
