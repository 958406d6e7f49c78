"""Commands on runs: show, compare, replay, rescore, score, calibrate."""
