"""What the policy can be aligned to, one file per target. Pure numpy.

To add one: copy the file that is nearest to it (``static.py`` reads the reference, ``grpo.py`` only the reward), enter
it below, and add its name to the settings ``target`` and ``run.compare`` in ``settings/tree.py`` (and to
``Config.refresh_every`` there, if it reads the reference).
"""

from __future__ import annotations

from blade_dist.posterior.targets import best_of_n_sft, blade, bond, grpo, static

TARGETS = {
    "blade": blade.TARGET,
    "static": static.TARGET,
    "bond": bond.TARGET,
    "grpo": grpo.TARGET,
    "best_of_n_sft": best_of_n_sft.TARGET,
}
"""By the name that the setting ``target`` gives."""
