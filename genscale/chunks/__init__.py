"""Videos made in chunks, each continuing the last: a tree search over the chunks (`tree_of_frames`)."""
