"""Pictures: how quick this library is with each case, beside the best of its peers; the memory that manifests take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cases import Case
from .clients import PEERS
from .report import Results

_OURS, _THEIRS = "#1f6f8b", "#c8c8c8"


def ratio(case: Case, results: Results) -> float | None:
    """The drop-in's speed by that of the quickest peer; `None` where one of them was not measured."""
    best = max(results.speed(case, peer) for peer in PEERS)
    return results.speed(case, "read") / best if best else None


def draw(plan: Sequence[Case], results: Results, folder: Path) -> None:
    """Write `ratios.svg` to `folder`."""
    pyplot = _pyplot()
    ratios = [
        (case.title.replace("`", ""), found) for case in reversed(plan) if (found := ratio(case, results)) is not None
    ]
    figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.32 * len(ratios)), layout="constrained")
    titles, lengths = zip(*ratios, strict=True)
    bars = axes.barh(titles, lengths, color=[_OURS if length >= 1 else _THEIRS for length in lengths])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.bar_label(bars, fmt="%.2f", padding=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times the speed of the quickest peer")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "ratios.svg", metadata={"Date": None})


def draw_memory(curves: Mapping[int, Sequence[tuple[int, float]]], folder: Path) -> None:
    """Write `manifests.svg` to `folder`: by how many keys there are, the megabytes when so many of them had come."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for shade, (count, curve) in zip((_THEIRS, _OURS, "black"), sorted(curves.items()), strict=False):
        axes.plot(
            [keys / count for keys, _ in curve], [grown for _, grown in curve], color=shade, label=f"{count:,} keys"
        )
    axes.set_xlabel("part of the keys")
    axes.set_ylabel("MB more than before")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "manifests.svg", metadata={"Date": None})


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    return pyplot
