"""The tables of the synthetic study, from its result file."""

from __future__ import annotations

import statistics

from benchmarks.tables.text import Result, Rows, signed, title

GOALS = {
    "reward_ratio_blade_static": ("final mean reward, BLADE over static", "{:.3f}x", "at least 1.08x"),
    "informative_ratio": ("informative groups, BLADE over static", "{:.1f}x", "at least 3x"),
    "tau_spread": ("spread of the fixed taus", "{:.1%}", "at least 5 %"),
    "auto_tau_gap": ("best fixed tau minus `tau: auto`, of the best", "{:+.1%}", "at most 2 %"),
}
"""Number -> what it is, how it is written, its goal."""


def goals(result: Result) -> Rows:
    """What must be reached, and what was, over all seeds and for each alone."""
    rows = [["synthetic study", "all seeds", "each seed", "goal"]]
    for name, (what, form, goal) in GOALS.items():
        alone = [of[name] for part in ("by_seed", "taus_by_seed") for of in result[part].values() if name in of]
        rows.append([what, form.format(result[name]), ", ".join(map(form.format, alone)), goal])
    return rows


def targets(result: Result) -> Rows:
    """Means over seeds of the main regime, with the seeds' range of the reward."""
    rows = [["target", "learning rate", "reward (seeds)", "informative groups", "KL to SFT"]]
    for target, means in result["by_target"].items():
        cells = [cell for cell in result["cells"] if cell["target"] == target]
        kl = f"{means['kl']:.2f}" if target != "bond" else ""  # its KL is to the anchor, which follows the policy
        numbers = [f"{means['informative_groups']:.2f}", kl]
        rows.append([title(target), f"{cells[0]['lr']:g}", _over_seeds(cells), *numbers])
    return rows


def _over_seeds(cells: list[Result]) -> str:
    rewards = [cell["reward"] for cell in cells]
    mean = f"{statistics.fmean(rewards):.3f}"
    return mean if len(rewards) == 1 else f"{mean} [{min(rewards):.3f}, {max(rewards):.3f}]"


def taus(result: Result) -> Rows:
    """The composite reward over tau, means over seeds; ``auto`` with the tau that it came to."""
    rows = [["tau", "reward (seeds)", "KL", "tau at the end"]]
    for tau in dict.fromkeys(cell["tau"] for cell in result["taus"]):
        cells = [cell for cell in result["taus"] if cell["tau"] == tau]
        last = statistics.fmean(cell["last_tau"] for cell in cells)
        rows.append(
            [str(tau), _over_seeds(cells), f"{statistics.fmean(cell['kl'] for cell in cells):.2f}", f"{last:.2f}"]
        )
    return rows


def searches(result: Result) -> Rows:
    """One greedy list of BLADE against the best of 16 samples of SFT."""
    rows = [
        ["users not aligned on", "SFT, greedy", "SFT, best of 16", "BLADE, one greedy list", "BLADE minus best of 16"]
    ]
    for metric, of in result["blade_vs_bon16"].items():
        name = f"{metric} (less is better)" if of["less_is_better"] else metric
        name += f", {of['users']} users"
        means = [f"{of[policy]:.4f}" for policy in ("sft_greedy", "best_of_16", "blade")]
        rows.append([name, *means, signed(of)])
    return rows


def supervision(result: Result) -> Rows:
    """What static and BLADE know of groups that are better and better."""
    rows = [["policy", "lists above all references", "static: informative", "order", "BLADE: informative", "order"]]
    for row in result["supervision"]:
        known = [f"{row[f'{what}, {of}']:.2f}" for of in ("static", "blade") for what in ("informative", "order")]
        rows.append([f"best of {row['n']:.0f}", f"{row['above']:.2f}", *known])
    return rows


def small_regimes(result: Result) -> Rows:
    """Outliers and two levels, one seed: what the lists are worth, without the outliers."""
    regimes = {"outliers": result["noise"], "two levels": result["levels"]}
    rows = [
        [regime, title(cell["target"]), f"{cell['true_reward']:.3f}", f"{cell['informative_groups']:.2f}"]
        for regime, cells in regimes.items()
        for cell in cells
    ]
    return [["regime", "target", "true reward", "informative groups"], *rows]


TABLES = {
    "goals": goals,
    "targets": targets,
    "supervision": supervision,
    "taus": taus,
    "searches": searches,
    "small": small_regimes,
}
"""By their names on pages."""
