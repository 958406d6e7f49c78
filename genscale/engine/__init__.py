"""Runs many samplers against one model and its verifiers, under a budget."""
