"""The mathematics of the reverse process: noise levels, predictions, kernels, guidance."""
