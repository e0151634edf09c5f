"""The tables of the recorded results, for Markdown pages (``python -m benchmarks.tables PAGE``) and terminals."""
