"""Plots of an evaluation as PNG: agreement of volumes, ROC, calibration, attention. Computes nothing. Needs matplotlib (extra `train`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.statistics import CalibrationBin, Interval

F64 = npt.NDArray[np.float64]
SIZE_INCH, DPI = (6.0, 4.5), 120


def bland_altman(
    true_ml: Sequence[float],
    reported_ml: Sequence[float],
    *,
    bias: Interval,
    limits: tuple[Interval, Interval],
    title: str,
    path: Path,
) -> None:
    """Difference against mean of two measurements, with bias and 95 % limits of agreement and their intervals."""
    true, reported = np.asarray(true_ml), np.asarray(reported_ml)
    figure, axes = _axes("Mean of both (mL)", "Reported - true (mL)", title)
    axes.scatter((true + reported) / 2, reported - true, s=14, color="tab:blue")
    for line, name, style in ((bias, "bias", "-"), (limits[0], "limits", "--"), (limits[1], "", "--")):
        axes.axhline(line.value, color="tab:red", linestyle=style, linewidth=1, label=name or None)
        axes.axhspan(line.low, line.high, color="tab:red", alpha=0.12, linewidth=0)
    axes.legend(loc="best")
    figure.savefig(path, dpi=DPI)


def roc_curve(fpr: F64, tpr: F64, *, auc: Interval, path: Path) -> None:
    """True against false positive rate."""
    title = f"Expansion: AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}], {auc.n} haematomas"
    figure, axes = _axes("1 - specificity", "Sensitivity", title)
    axes.plot(fpr, tpr, color="tab:blue")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    figure.savefig(path, dpi=DPI)


def calibration_curve(bins: Sequence[CalibrationBin], *, path: Path) -> None:
    """Share that expanded against mean probability, with 95 % intervals; areas of points are numbers of haematomas."""
    figure, axes = _axes("Mean probability", "Share that expanded", "Expansion: calibration")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    said, came = [one.said for one in bins], [one.came for one in bins]
    axes.vlines(said, [one.low for one in came], [one.high for one in came], color="tab:blue", linewidth=1)
    axes.scatter(said, [one.value for one in came], s=[3 * one.n for one in came], alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, dpi=DPI)


def attention_shares(
    inside: Sequence[float], uniform: Sequence[float], *, goals: tuple[float, float], path: Path
) -> None:
    """Share of the attention on the haematoma against a uniform map's; `goals`: the share, and how many times the other."""
    figure, axes = _axes("Share of a uniform map", "Share of the attention", f"Attention, {len(inside)} haematomas")
    axes.scatter(uniform, inside, s=14, color="tab:blue")
    share, times = goals
    axes.axhline(share, color="tab:red", linewidth=1, label=f"{share:g}")
    axes.plot([0, 1 / times], [0, 1], color="tab:red", linestyle="--", linewidth=1, label=f"{times:g} times uniform")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=DPI)


def _axes(x: str, y: str, title: str) -> tuple[Any, Any]:
    # Not pyplot: it keeps every figure and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCH, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.title.set_fontsize(10)
    return figure, axes
