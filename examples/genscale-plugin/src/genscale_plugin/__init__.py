"""A sampler and a verifier for genscale, found by it through the entry points in pyproject.toml.

Nothing is imported here: genscale loads the module of a plug-in when somebody asks for it.
"""
