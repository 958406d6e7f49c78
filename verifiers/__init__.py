"""The verifiers: scores of images or videos. Each is a class in its own file, registered as an entry point in the group
`genscale.verifiers`; `differentiable.py` has their common base classes."""

if __name__ == "verifiers":
    raise ImportError("import genscale.verifiers, not verifiers: the folder is a part of genscale")
