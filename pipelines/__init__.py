"""The drop-in for diffusers: the inverted loop, `scale()`, loading and the bundled toy models."""

if __name__ == "pipelines":
    raise ImportError("import genscale.pipelines, not pipelines: the folder is a part of genscale")
