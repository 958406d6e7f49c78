"""Toy worlds and closed-form models, to train, judge and test on."""
