"""What a search found, compared and calibrated."""
