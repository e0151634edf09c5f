"""Items, and how a list of items is written in tokens (the codec)."""
