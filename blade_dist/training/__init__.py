"""The heart: the loop that every learner rank runs, and the pipeline that feeds it."""
