"""The verifiers: one judge of images a file, found through the entry-point group `genscale.verifiers`."""

if __name__ == "verifiers":
    raise ImportError("import genscale.verifiers, not verifiers: the folder is a part of genscale")
