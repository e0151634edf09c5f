"""What aligned policies are worth: a study of a real log and one of a synthetic catalog."""

DATA_FOLDER = "BLADE_BENCHMARK_DATA"
"""Environment variable: the run whose data this package's rewards read, as a reward is given lists and no settings."""
