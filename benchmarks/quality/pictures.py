"""Pictures of the quality results: small PNGs beside the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

DPI = 110
COLORS = 64
SMOOTH = 0.05
"""Share of the steps that a point of a curve is the mean of."""
Interval = Mapping[str, float]
"""mean, low, high."""


def draw_curves(curves: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], path: Path) -> None:
    """Reward and informative groups over steps: mean over a target's seeds, the band from the lowest to the highest.

    Args:
        curves: target -> for each seed, name -> a value per step.
        path: where the picture is written.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, name in zip(axes, ("reward", "informative_groups"), strict=True):
        for target, seeds in curves.items():
            smoothed = [smooth(of[name]) for of in seeds]
            shortest = min(len(curve) for curve in smoothed)
            rows = np.stack([curve[:shortest] for curve in smoothed])
            (line,) = axis.plot(rows.mean(axis=0), label=target, linewidth=1.2)
            axis.fill_between(range(shortest), rows.min(axis=0), rows.max(axis=0), color=line.get_color(), alpha=0.15)
        axis.set(xlabel="step", ylabel=name.replace("_", " "))
    axes[0].legend(fontsize=8)
    _save(figure, path)


def draw_search(searches: Mapping[str, Mapping[int, Interval]], single: Mapping[str, Interval], path: Path) -> None:
    """NDCG@5 against samples at inference.

    Args:
        searches: choice -> N -> interval; N = 1 is one sample.
        single: policies that write one list, greedily.
        path: where the picture is written.
    """
    figure, axis = plt.subplots(figsize=(6, 4))
    for label, points in searches.items():
        _errors(axis, list(points), list(points.values()), label)
    for number, (label, interval) in enumerate(single.items()):
        color = f"C{len(searches) + number}"
        axis.axhline(interval["mean"], color=color, label=f"{label}, one greedy list", linewidth=1.2)
        axis.axhspan(interval["low"], interval["high"], color=color, alpha=0.12)
    axis.set(xlabel="samples per list served", ylabel="NDCG@5", xscale="log")
    ticks = sorted({n for points in searches.values() for n in points})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    _save(figure, path)


def draw_pareto(fronts: Mapping[str, Mapping[str, Sequence[tuple[Interval, Interval]]]], path: Path) -> None:
    """NDCG@5 against each metric: a line per target, through its rewards in order of the metric.

    Args:
        fronts: metric -> target -> the metric and NDCG@5 of each reward.
        path: where the picture is written.
    """
    figure, axes = plt.subplots(1, len(fronts), figsize=(5 * len(fronts), 4), squeeze=False)
    for axis, (name, targets) in zip(axes[0], fronts.items(), strict=True):
        for label, points in targets.items():
            ordered = sorted(points, key=lambda point: point[0]["mean"])
            _errors(axis, [x["mean"] for x, _ in ordered], [y for _, y in ordered], label)
        axis.set(xlabel=name, ylabel="NDCG@5")
        axis.locator_params(axis="x", nbins=5)
    axes[0][0].legend(fontsize=8)
    figure.suptitle("greedy lists; of a search, the sample that it chose")
    _save(figure, path)


def draw_sensitivity(settings: Mapping[str, Mapping[str, Interval]], path: Path) -> None:
    """NDCG@5 for every value of each setting."""
    figure, axes = plt.subplots(1, len(settings), figsize=(3 * len(settings), 3.2), sharey=True, squeeze=False)
    for axis, (name, points) in zip(axes[0], settings.items(), strict=True):
        _errors(axis, list(range(len(points))), list(points.values()), name)
        axis.set_xticks(range(len(points)), list(points))
        axis.set(xlabel=name)
    axes[0][0].set(ylabel="NDCG@5, greedy")
    _save(figure, path)


def smooth(values: Sequence[float]) -> np.ndarray:
    """Means over a window that ends at each step, shorter at the beginning."""
    window = max(1, round(SMOOTH * len(values)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _errors(axis: Axes, xs: Sequence[float], intervals: Sequence[Interval], label: str) -> None:
    means = np.array([interval["mean"] for interval in intervals])
    below, above = (np.array([interval[end] for interval in intervals]) for end in ("low", "high"))
    reach = np.maximum([means - below, above - means], 0)
    axis.errorbar(xs, means, reach, marker="o", markersize=4, capsize=2, label=label)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with BytesIO() as drawn:
        figure.savefig(drawn, dpi=DPI)
        plt.close(figure)
        # bands that overlap have thousands of shades; with a palette of few colours the file is a third as large
        Image.open(drawn).convert("P", palette=Image.Palette.ADAPTIVE, colors=COLORS).save(path, optimize=True)
