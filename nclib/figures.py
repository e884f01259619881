"""The book's figures: one palette, one style, the same thing in the same colour everywhere.

Takes data frames and numpy arrays only. Every function but ``player`` returns a matplotlib figure, closed so that a
notebook shows it once, and leaves the title to the caption beside the cell.
"""

import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from itertools import cycle
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib_inline.backend_inline import set_matplotlib_formats

from .seeds import whisker

# Okabe and Ito's colours: told apart by the colour-blind and in grey print.
SPARE = BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#333333",
)  # fmt: skip
COLORS = {
    "clean": BLUE,
    "untargeted": RED,
    "targeted": PINK,
    "adaptive": PINK,
    "sign": GREEN,
    "gaussian": ORANGE,
    "sphere": SKY,
    "standard": BLACK,
    "untrained": "#999999",
    "adversarial": BLUE,
    "adversarial (train-mode attack)": SKY,
    "TRADES (fixed)": GREEN,
    "TRADES (published)": ORANGE,
    "network": BLUE,
    "nearest class centre": RED,
}
NAMES = {
    "nc1": "NC1, within-class variability",
    "nc3": "NC3, self-duality gap",
    "nc4": "NC4, disagreement with NCC",
    "equinorm": "NC2 equinorm",
    "equiangle": "NC2 equiangle",
    "accuracy": "accuracy",
    "loss": "cross-entropy",
    "ncc_accuracy": "NCC accuracy",
    "centers_ncc_accuracy": "NCC accuracy, clean training centres",
    "centers_nc1": "NC1 about the clean centres",
    "angle": "angle to the clean simplex (degrees)",
    "cdnv": "CDNV",
    "weight_equinorm": "NC2 equinorm, classifier",
    "weight_equiangle": "NC2 equiangle, classifier",
    "distance": "distance between class means",
    "centers_leapt": "share closest to another vertex",
}
WIDTH = 7.6  # inches: the width of a page's text
LOGARITHMIC = {"nc1", "nc1_per_class", "centers_nc1", "cdnv", "loss"}
CLASS_COLORS = (BLUE, ORANGE, GREEN)  # of the three classes whose plane is shown


def use_style() -> None:
    """Set the book's look: white ground (readable in dark mode), thin grid, no frame on top and right."""
    if "ipykernel" in sys.modules:
        set_matplotlib_formats("svg")  # one scale on every page, sharp in print
    sns.set_theme(
        context="paper",
        style="whitegrid",
        rc={
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.linewidth": 0.5,
            "grid.color": "#dddddd",
            "font.size": 9.5,
            "axes.titlesize": 9.5,
            "axes.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "legend.frameon": False,
        },
    )


def panels(
    frame: pd.DataFrame,
    x: str,
    measures: Sequence[str],
    hue: str = "view",
    style: str | None = "split",
    columns: int = 3,
    xlabel: str | None = None,
    logx: bool = False,
) -> plt.Figure:
    """One small panel per measure of a tidy frame: value against ``x``, a band where there are several seeds."""
    rows = -(-len(measures) // columns)
    size = (WIDTH if columns > 1 else 0.7 * WIDTH, 2.4 * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)
    for axis, measure in zip(axes.flat, measures):
        part = frame[frame.measure == measure]
        if part.empty:
            axis.set_title("not run")
            continue
        sns.lineplot(
            part, x=x, y="value", hue=hue, style=style, palette=_palette(frame[hue]), ax=axis, marker="o",
            markersize=3.5, markeredgewidth=0, errorbar=whisker, sort=not isinstance(part[x].iloc[0], str),
        )  # fmt: skip
        axis.set(xlabel=xlabel or x, ylabel="", title=NAMES.get(measure, measure))
        if logx:
            axis.set_xscale("symlog", linthresh=1, linscale=0.4)
            axis.set_xlim(left=0)
            axis.xaxis.set_major_formatter("{x:g}")
        if measure in LOGARITHMIC and (part.value > 0).all():
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=min(0, part.value.min()))
        axis.tick_params(axis="x", rotation=60 if part[x].nunique() > 4 and isinstance(part[x].iloc[0], str) else 0)
    for legend in filter(None, [axis.get_legend() for axis in axes.flat]):
        legend.remove()
    for axis in axes.flat[len(measures) :]:
        axis.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return _closed(figure)


def heatmaps(matrices: dict[str, np.ndarray], labels: Sequence[str], low: float, high: float) -> plt.Figure:
    """Class-by-class matrices side by side, each under its name; of at most 12 classes with names and numbers."""
    size = (WIDTH, WIDTH / len(matrices) - 0.4)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, squeeze=False, layout="constrained")
    for axis, (name, matrix) in zip(axes.flat, matrices.items()):
        sns.heatmap(
            matrix, vmin=low, vmax=high, cmap="RdBu_r" if low < 0 else "Blues", square=True, ax=axis,
            annot=(few := len(matrix) <= 12), fmt=".2f", annot_kws={"size": 6}, cbar_kws={"shrink": 0.7},
            rasterized=not few, xticklabels=labels if few else "auto", yticklabels=labels if few else "auto",
        )  # fmt: skip
        axis.tick_params(labelsize=8, length=0)
        axis.set_title(name)
    return _closed(figure)


class Plane:
    """The plane through three points (3, d): origin at their centre, first axis towards the first of them."""

    def __init__(self, three: np.ndarray):
        self.origin = three.mean(0)
        self.axes = np.linalg.qr((three - self.origin)[:2].T)[0]
        self.axes *= np.sign(((three - self.origin)[:2] @ self.axes).diagonal())

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Orthogonal projection of (N, d) points: (N, 2)."""
        return (points - self.origin) @ self.axes


def frames(films: dict[str, np.ndarray], labels: np.ndarray, three: Sequence[int]) -> list[tuple]:
    """A film's frames: for each title the features (N, d) of three classes in the plane of their own class means.

    Each frame is (title, points (n, 2), class 0..2 of each point (n,), means (3, 2)), as ``filmstrip`` takes them.
    """
    shown, out = np.isin(labels, three), []
    classes = np.searchsorted(three, labels[shown])
    for title, h in films.items():
        means = np.stack([h[labels == c].mean(0) for c in three])
        plane = Plane(means)
        out.append((title, plane(h[shown]), classes, plane(means)))
    return out


def filmstrip(frames: Sequence[tuple], labels: Sequence[str]) -> plt.Figure:
    """Features of three classes in the plane of their means, at most three frames a row.

    Each frame is (title, points (N, 2), class 0..2 of each point (N,), means (3, 2)).
    """
    columns = min(3, len(frames))
    rows = -(-len(frames) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 2.6 * rows), squeeze=False, layout="constrained")
    for axis, (title, points, classes, means) in zip(axes.flat, frames):
        _cloud(axis, points, classes, means, labels)
        axis.set_title(title)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, markerscale=3)
    return _closed(figure)


def arrows(
    before: np.ndarray, after: np.ndarray, classes: np.ndarray, means: np.ndarray, labels: Sequence[str]
) -> plt.Figure:
    """Arrows from clean to attacked features (N, 2) in the plane of three class means (3, 2)."""
    figure, axis = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
    colors = np.array([CLASS_COLORS[c] for c in classes])
    moves = after - before
    axis.quiver(*before.T, *moves.T, color=colors, angles="xy", scale_units="xy", scale=1, width=0.0025, alpha=0.5)
    axis.scatter(*after.T, c=colors, s=10, edgecolors="white", linewidths=0.3)
    _cloud(axis, before, classes, means, labels)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=3)
    return _closed(figure)


def player(
    frames: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: np.ndarray,
    labels: Sequence[str],
    dial: str,
    titles: Sequence[str],
    alt: str,
) -> HTML:
    """Points of three classes that move along a slider called ``dial``: SVG and a script, nothing from outside.

    Each frame is (points (N, 2), corners (3, 2)), with one title; ``classes`` (N,) are 0..2. Without a script, and in
    print, the last frame stands still.
    """
    everything = np.concatenate([np.concatenate(frame) for frame in frames])
    low, high = everything.min(0), everything.max(0)
    scale = min(940 / (high - low)[0], 600 / (high - low)[1])
    places = [np.concatenate(frame) - (low + high) / 2 for frame in frames]
    places = [np.round((500, 370) + scale * p * (1, -1)).astype(int).tolist() for p in places]
    looks = [*((c, 6, 0.6) for c in classes), *((c, 13, 1) for c in range(3))]
    circles = [
        f'<circle cx="{x}" cy="{y}" r="{r}" fill="{CLASS_COLORS[c]}" fill-opacity="{opacity}"/>'
        for (x, y), (c, r, opacity) in zip(places[-1], looks)
    ]
    legend = [
        f'<rect x="790" y="{20 + 40 * c}" width="24" height="24" fill="{CLASS_COLORS[c]}"/>'
        f'<text x="826" y="{42 + 40 * c}">{escape(label)}</text>'
        for c, label in enumerate(labels)
    ]
    data = json.dumps({"frames": places, "titles": list(titles)}, separators=(",", ":"))
    fields = dict(circles="".join(circles), legend="".join(legend), data=data, last=len(frames) - 1)
    fields |= dict(dial=escape(dial), alt=escape(alt), still=escape(titles[-1]), corners=len(classes))
    fields["triangle"] = " ".join(f"{x},{y}" for x, y in places[-1][-3:])
    template = Template(Path(__file__).with_name("player.html").read_text("utf-8"))
    return HTML(template.substitute(fields, id="player-" + sha256(data.encode()).hexdigest()[:8]))


def _cloud(axis, points: np.ndarray, classes: np.ndarray, means: np.ndarray, labels: Sequence[str]) -> None:
    look = dict(s=7, alpha=0.5, linewidths=0, rasterized=True)
    for c, label in enumerate(labels):
        axis.scatter(*points[classes == c].T, color=CLASS_COLORS[c], label=f"class {label}", **look)
    axis.fill(*means.T, fill=False, edgecolor="#555555", linewidth=0.8)
    axis.scatter(*means.T, color=CLASS_COLORS, marker="*", s=110, edgecolors="black", linewidths=0.6, zorder=3)
    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.margins(0.12)
    sns.despine(ax=axis, left=True, bottom=True)


def triptych(clean: np.ndarray, attacked: np.ndarray, titles: Sequence[tuple[str, str]], gain: float) -> plt.Figure:
    """Columns of clean image, perturbation times ``gain`` about grey, attacked image. Images (N, H, W, C) in [0, 1]."""
    figure, axes = plt.subplots(3, len(clean), figsize=(1.25 * len(clean), 4.2), layout="constrained")
    rows = (clean, (0.5 + gain * (attacked - clean)).clip(0, 1), attacked)
    for row, (images, name) in enumerate(zip(rows, ("clean", f"perturbation × {gain:.3g}", "attacked"))):
        for column, image in enumerate(images):
            axis = axes[row, column]
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if row != 1:
                axis.set_title(titles[column][row // 2], fontsize=9)
        axes[row, 0].set_ylabel(name)
    return _closed(figure)


def bars(
    frame: pd.DataFrame, x: str, hue: str, columns: str, measure: str = "accuracy", sharey: bool = True
) -> plt.Figure:
    """Grouped bars of a tidy frame, a panel for each value of ``columns``; whiskers where there are several seeds."""
    parts = list(dict.fromkeys(frame[columns]))
    figure, axes = plt.subplots(1, len(parts), figsize=(WIDTH, 3.2), sharey=sharey, layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), parts):
        part = frame[frame[columns] == name]
        sns.barplot(part, x=x, y="value", hue=hue, palette=_palette(frame[hue]), errorbar=whisker, ax=axis)
        axis.set(xlabel="", ylabel=measure, title=name)
        axis.tick_params(axis="x", rotation=50)
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("right")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    for axis in np.atleast_1d(axes):
        axis.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return _closed(figure)


def _palette(values: pd.Series) -> dict[str, str]:
    names = list(dict.fromkeys(values))
    spare = cycle([color for color in SPARE if color not in map(COLORS.get, names)])
    return {name: COLORS.get(name) or next(spare) for name in names}


def _closed(figure: plt.Figure) -> plt.Figure:
    plt.close(figure)
    return figure
