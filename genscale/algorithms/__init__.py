"""What samplers share: particle filter, beam and tree search, noise ascent."""
