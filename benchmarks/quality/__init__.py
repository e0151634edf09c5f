"""What aligned policies are worth: the studies of a real log and of a synthetic catalog, ``python -m
benchmarks.quality``."""
