"""One run asked for in words: request, folder, files."""
