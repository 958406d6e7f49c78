"""Files that outlive a process: whole or absent, written by one process at a time, and checked when they are read."""
