"""What can be done with runs: show, compare, replay, rescore, calibrate."""
