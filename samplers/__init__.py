"""The samplers: one file for each published method, found through the entry-point group `genscale.samplers`."""

if __name__ == "samplers":
    raise ImportError("import genscale.samplers, not samplers: the folder is a part of genscale")
