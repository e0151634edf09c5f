"""A sweep over settings of the alignment: its points, and what came of each."""
