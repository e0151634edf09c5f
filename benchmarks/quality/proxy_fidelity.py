"""What a target's proxy reward knows of the true F, for groups that are better and better. Pure numpy.

A very large sample is taken to be the reference's true distribution of rewards: the prior's lists are drawn from it,
and so are the groups of a policy that has moved to the Best-of-n of the reference. The proxies are compared with the
true F of the same lists. BLADE's own evidence tells a group's rewards apart by construction.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from blade_dist.posterior.advantage import informative
from blade_dist.posterior.beta import Array, BetaSettings, share
from blade_dist.posterior.targets import TARGETS
from blade_dist.posterior.targets.target import Groups

REACHED = (1, 4, 16, 64, 256)
"""n of the Best-of-n that the policy has reached."""
REFERENCES, GROUP = 32, 16
"""M and G."""
DRAWS = 50
"""Groups per prompt and level."""
COMPARED = ("static", "blade", "grpo")


def proxy_fidelity(true: Array, bon_n: int, seed: int = 0) -> list[dict[str, float]]:
    """One row per level n.

    - ``above``: share of the lists that are at or above all M references, for which static's F is 1;
    - ``informative, target``: share of the groups whose proxy rewards differ where the true F do;
    - ``order, target``: mean Spearman correlation of proxy reward and true F within a group, 0 where there is none.

    Args:
        true: ``[P, L]`` rewards of very many reference lists of each prompt.
        bon_n: N.
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    settings = BetaSettings(tau=0.3, strength=float(REFERENCES), bon_n=bon_n)
    return [_level(n, true, settings, rng) for n in REACHED]


def _level(n: int, true: Array, settings: BetaSettings, rng: np.random.Generator) -> dict[str, float]:
    rows = np.repeat(np.arange(len(true)), DRAWS)[:, None]
    reference = np.sort(true[rows, rng.integers(0, true.shape[1], (len(rows), REFERENCES))], axis=1)
    # the best of n draws is the draw with the largest rank: n ranks are drawn, not n rewards
    best = np.sort(true, axis=1)[rows, rng.integers(0, true.shape[1], (len(rows), GROUP, n)).max(axis=2)]
    known = share(best, true[rows[:, 0]])
    differ = informative(known)  # a group whose true F are all equal holds nothing that a proxy could know
    row = {"n": float(n), "above": float((best >= reference[:, -1:]).mean())}
    for name in COMPARED:
        proxy = TARGETS[name].proxy(Groups(best, reference, settings))
        row[f"informative, {name}"] = float(informative(proxy)[differ].mean())
        row[f"order, {name}"] = float(rank_correlation(proxy, known)[differ].mean())
    return row


def rank_correlation(a: Array, b: Array) -> Array:
    """Spearman's correlation of each row, ``[B]``; 0 where a row of either is constant."""
    x, y = (rankdata(values, axis=1) for values in (a, b))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.where(spread > 0, (x * y).sum(axis=1) / np.where(spread > 0, spread, 1.0), 0.0)
