"""Numbers of latents in a model call, where each other number costs another graph.

A graph that was compiled for one shape (`dynamic=False`, CUDA graphs of mode "reduce-overhead" and "max-autotune") is
compiled again for each number of rows, and batches of a search have many. So they can be filled up: the first latent of
the batch is repeated, and what the model makes of the repetitions is not used. They are no NFE.
"""

from __future__ import annotations

from collections.abc import Callable

AS_THEY_ARE, FULL, BUCKETS = "no", "full", "buckets"
WAYS = (AS_THEY_ARE, FULL, BUCKETS)


def padded_size(n: int, most: int, how: str, allowed: Callable[[int], bool]) -> int:
    """How many latents the model is given for `n`.

    most: the batch size of the search. how: "no" gives n, "full" gives `most`, "buckets" the next power of two, or
    `most` where that is smaller. allowed: whether the model may be given so many; else it is one more.
    """
    if how == AS_THEY_ARE or n > most:
        return n
    size = most if how == FULL else min(1 << (n - 1).bit_length(), most)
    return size if allowed(size) else size + 1
