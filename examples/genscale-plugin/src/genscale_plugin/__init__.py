"""Two samplers and a verifier for genscale, which finds them through the entry points in pyproject.toml.

Nothing is imported here: genscale loads the module of a plug-in when it is asked for by name.
"""
