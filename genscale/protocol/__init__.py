"""What a sampler may ask, what it is answered, and what it can count on."""
