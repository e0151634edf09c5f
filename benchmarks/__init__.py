"""How fast the trainer is; what aligned policies are worth is in :mod:`benchmarks.quality`. README.md says what each
command measures."""
