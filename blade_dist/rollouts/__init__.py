"""Rollouts: vLLM engines in Ray actors that write candidate lists.

**The transition that must not exist:** an engine goes from *started* to *serving a training step* without having passed
*holds the current weights* and *has passed the probe* in between. Its lists would be those of another policy; nothing
would crash, and the importance weights would hide it. Five places rule it out today:

- :class:`~blade_dist.rollouts.health.Health` knows of every process whether it may serve: once there was a push, none
  does but those that took part in the newest one from its beginning and were proved. The pool asks no other.
- Engines are started with ``max_restarts=0``: Ray restarts none behind :class:`~blade_dist.rollouts.fleet.Fleet`'s
  back. What takes a lost engine's place is another process, of another life.
- :class:`~blade_dist.rollouts.engine.Engine` writes the version of its weights, ``(attempt, step)``, into every list.
  It is ``(0, 0)`` at the start, and ``NO_VERSION`` from the first piece of a push (or from falling asleep) until the
  whole push has arrived and the prefix cache is empty.
- ``training``'s loop pushes and then compares the log-probs of a probe before it takes a step's lists, in every attempt
  anew; a gap above ``weights.tolerance`` ends the run.
- ``training``'s rank refuses a batch with lists of another attempt (attempts count from 1) or of weights that are older
  than ``rollout.max_staleness`` allows.
"""
