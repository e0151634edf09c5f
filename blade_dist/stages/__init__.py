"""One file per command, run by the driver, and what they share; each stage leaves a whole folder, or nothing.

Commands: data, sft, prior, align (``train``), evaluate, export, sweep, run.
Shared: opened (a run, checked once), actors, fit (learners under Ray Train), constraints, trials (of a sweep), cost.
"""
