"""Rollouts: vLLM engines in Ray actors that write candidate lists.

**The transition that must not exist:** an engine goes from *started* to *serving a training step* without having passed
*holds the current weights* and *has passed the probe* in between. Its lists would be those of another policy; nothing
would crash, and the importance weights would hide it. Four places rule it out today:

- :class:`~blade_dist.rollouts.pool.RunningPool` starts engines with ``max_restarts=0``. A restarted actor would serve
  the weights that it was started from. So a dead engine stays dead, every call to it raises, and the run ends; the same
  command starts new engines and resumes from the last checkpoint.
- :class:`~blade_dist.rollouts.engine.Engine` writes the version of its weights, ``(attempt, step)``, into every list.
  It is ``(0, 0)`` at the start, and ``NO_VERSION`` from the first piece of a push (or from falling asleep) until the
  whole push has arrived and the prefix cache is empty.
- ``training``'s loop pushes and then compares the log-probs of a probe before it takes a step's lists, in every attempt
  anew; a gap above ``weights.tolerance`` ends the run.
- ``training``'s rank refuses a batch with lists of another attempt (attempts count from 1) or of weights that are older
  than ``rollout.max_staleness`` allows.
"""
