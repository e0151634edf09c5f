"""One file per command, run by the driver, and what they share; each stage leaves a whole folder, or nothing.

Commands: data, sft, prior, align (``train``), evaluate, export, sweep, run.
Shared: opening (first lines), opened (a run, checked once), actors, fit (learners under Ray Train), resume (from which
checkpoint), constraints, trials (of a sweep), cost.
"""
