"""The drawings of the report: arrays in, inline SVG out, coloured by the page's CSS variables so that light and dark both work.

matplotlib draws with placeholder colours; they become `var(--name)` in the SVG text. No pyplot and no window system:
a Figure is written to a string. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cift_models.evaluation.calibration import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = ("#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d", "#0e0e0e", "#0f0f0f")
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", GOOD: "good", BAD: "bad"} | {c: f"s{i}" for i, c in enumerate(SERIES)}

WIDE, SQUARE, THIRD, FULL = (6.4, 3.0), (4.5, 3.0), (3.6, 2.7), (11.0, 2.0)
"""Inches; the page gives them 7, 5, 4 and 12 of 12 columns, so that letters and heights match."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cift",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "path.simplify": True,
}


def drawing(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = WIDE) -> str:
    """One inline SVG of `draw` on one pair of axes; `name` keeps its ids apart from those of other drawings on the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"[^a-zA-Z0-9]+", "-", name)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg class="plot" data-name="{prefix}" viewBox="\1" role="img">', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def _legend(axes: Axes) -> None:
    """Above the axes, where no line runs; long names in fewer columns, for a legend wider than the axes squeezes them."""
    longest = max((len(label) for label in axes.get_legend_handles_labels()[1]), default=0)
    columns = 3 if longest <= 13 else 2 if longest <= 19 else 1
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.4, columnspacing=1.2)


def _no_grid(axes: Axes, which: str) -> None:
    axes.grid(False, axis=which)  # type: ignore[arg-type]


def r2_bars(name: str, rows: Sequence[tuple[str, float, float | None, float | None]], highlight: Sequence[str] = ()) -> str:
    """Points with 95 % intervals, one row a model: (model, value, lo, hi). `highlight` names those drawn in colour."""

    def draw(axes: Axes) -> None:
        for y, (model, value, lo, hi) in enumerate(reversed(rows)):
            colour = SERIES[list(highlight).index(model) % len(SERIES)] if model in highlight else MUTED
            if lo is not None and hi is not None:
                axes.plot([100 * lo, 100 * hi], [y, y], color=colour, linewidth=3, alpha=0.45, solid_capstyle="round")
            axes.plot(100 * value, y, "o", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [model for model, *_ in reversed(rows)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("R², % of squared moves")
        _no_grid(axes, "y")

    return drawing(name, draw, (6.4, max(3.0, 0.9 + 0.25 * len(rows))))


def reliability_curve(name: str, curves: Mapping[str, Reliability]) -> str:
    """Chance of up given a move against the share of ups; on the diagonal the chances mean what they say."""

    def draw(axes: Axes) -> None:
        every = np.concatenate([np.concatenate([c.chance, c.lo, c.hi]) for c in curves.values()])
        low, high = min(0.45, float(every.min()) - 0.01), max(0.55, float(every.max()) + 0.01)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for (label, curve), colour in zip(curves.items(), SERIES, strict=False):
            axes.vlines(curve.chance, curve.lo, curve.hi, color=colour, linewidth=1.4, alpha=0.45)
            axes.plot(curve.chance, curve.share, "o-", color=colour, markersize=4, label=label)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel("stated chance of up, given a move")
        axes.set_ylabel("share that went up")
        _legend(axes)

    return drawing(name, draw, SQUARE)


def r2_by_part(
    name: str,
    labels: Sequence[str],
    series: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    size: tuple[float, float] = WIDE,
) -> str:
    """R2 by stretch of the day, or by regime: {model: (value[k], standard error[k])}; whiskers are 1.96 standard errors, for the eye.

    A value whose error is 0 or NaN (one block, or two alike) is drawn hollow.
    """

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels))
        for i, ((label, (value, error)), colour) in enumerate(zip(series.items(), SERIES, strict=False)):
            at = places + 0.18 * (i - (len(series) - 1) / 2)
            axes.vlines(at, 100 * (value - 1.96 * error), 100 * (value + 1.96 * error), color=colour, linewidth=2.4, alpha=0.4)
            # Hollow: one block has no spread, and a point without a whisker looks the surest of all.
            bare = ~(error > 0)
            axes.plot(at[bare], 100 * value[bare], "o", color=colour, markersize=5, fillstyle="none")
            axes.plot(at[~bare], 100 * value[~bare], "o", color=colour, markersize=5, label=label)
        axes.axhline(0, color=INK, linewidth=0.8)
        every = max(1, len(labels) // 9)
        axes.set_xticks(places[::every], list(labels[::every]))
        axes.set_ylabel("R², %")
        axes.set_xlim(-0.6, len(labels) - 0.4)
        _legend(axes)
        _no_grid(axes, "x")

    return drawing(name, draw, size)


def delay_decay(name: str, series: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]]) -> str:
    """Skill by delay: {model: [(delay_ms, value, lo, hi)]}, delays at even steps."""

    def draw(axes: Axes) -> None:
        delays = sorted({row[0] for rows in series.values() for row in rows})
        place = {d: i for i, d in enumerate(delays)}
        for (label, rows), colour in zip(series.items(), SERIES, strict=False):
            x = [place[row[0]] for row in rows]
            axes.plot(x, [100 * row[1] for row in rows], "o-", color=colour, markersize=4.5, label=label)
            banded = [row for row in rows if row[2] is not None and row[3] is not None]
            axes.fill_between(
                [place[row[0]] for row in banded],
                [100 * row[2] for row in banded],  # type: ignore[operator]
                [100 * row[3] for row in banded],  # type: ignore[operator]
                color=colour,
                alpha=0.13,
                linewidth=0,
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(delays)), [_delay(d) for d in delays])
        axes.set_xlabel("delay between the forecast and the start of the move")
        axes.set_ylabel("R², %")
        _legend(axes)

    return drawing(name, draw, SQUARE)


def timing_decay(name: str, rows: Sequence[tuple[float, float, float | None, float | None]], null: float | None) -> str:
    """Timing value by delay, [(delay_ms, bps, lo, hi)], and the most that shifted forecasts reached (a dashed line)."""

    def draw(axes: Axes) -> None:
        for x, (_, value, lo, hi) in enumerate(rows):
            if lo is not None and hi is not None:
                axes.plot([x, x], [lo, hi], color=SERIES[0], linewidth=3, alpha=0.45, solid_capstyle="round")
            axes.plot(x, value, "o", color=SERIES[0], markersize=6)
        axes.axhline(0, color=INK, linewidth=0.8)
        if null is not None:
            axes.axhline(null, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="most that shifted forecasts reach")
            _legend(axes)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_xticks(range(len(rows)), [_delay(row[0]) for row in rows])
        axes.set_xlabel("delay between the decision and the order at the venue")
        axes.set_ylabel("saved, bps")
        _no_grid(axes, "x")

    return drawing(name, draw)


def _delay(ms: float) -> str:
    return "none" if ms == 0 else f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"


def equity_curve(name: str, hours: NDArray[np.float64], curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    """Cumulated bps of round trips by time of exit: {label: (hour[k], bps[k])}; `hours` (first, last) span the axis."""

    def draw(axes: Axes) -> None:
        for (label, (at, total)), colour in zip(curves.items(), SERIES, strict=False):
            axes.step(
                np.concatenate([hours[:1], at, hours[-1:]]),
                np.concatenate([[0.0], total, total[-1:]]),
                where="post",
                color=colour,
                label=label,
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("hours since the first test row")
        axes.set_ylabel("cumulated, bps")
        _legend(axes)

    return drawing(name, draw)


def regime_strip(name: str, hours: NDArray[np.float64], p: NDArray[np.float64], names: Sequence[str]) -> str:
    """Filtered chances of the regimes over time, stacked: hours float64[n], p float64[n, K]. Long days are thinned to 600 points."""

    def draw(axes: Axes) -> None:
        rows = np.unique(np.linspace(0, len(hours) - 1, min(len(hours), 600)).astype(int))
        axes.stackplot(hours[rows], p[rows].T, labels=list(names), colors=list(SERIES[: len(names)]), alpha=0.75, linewidth=0)
        axes.set_ylim(0, 1)
        axes.set_xlim(float(hours[0]), float(hours[-1]))
        axes.set_xlabel("hours since the first test row")
        axes.set_ylabel("filtered chance")
        _legend(axes)
        axes.grid(False)

    return drawing(name, draw, FULL)


def kernel_curves(name: str, lag_s: NDArray[np.float64], kernels: Mapping[str, NDArray[np.float64]]) -> str:
    """Hawkes kernels on log-log axes: lag_s float64[k], {pair: events per second float64[k]}; values of 0 are left out.

    The axis ends at a millionth of the greatest value: below, an exponential's tail would squeeze all that can happen in a session.
    """

    def draw(axes: Axes) -> None:
        top = max((float(values.max()) for values in kernels.values() if len(values)), default=0.0)
        for (label, values), colour in zip(kernels.items(), SERIES, strict=False):
            axes.plot(lag_s, np.where(values > 0, values, np.nan), color=colour, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        if top > 0:
            axes.set_ylim(1e-6 * top, 2 * top)
        axes.set_xlabel("seconds after the event")
        axes.set_ylabel("extra events per second")
        _legend(axes)

    return drawing(name, draw, SQUARE)


def lead_lag_matrix(name: str, symbols: Sequence[str], weight: NDArray[np.float64], clear: NDArray[np.bool_] | None = None) -> str:
    """Who moves whom: weight[i, j] of j (column) on i (row), blue above 0 and red below; edges whose interval excludes 0 are bold."""

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        n = len(symbols)
        top = float(np.nanmax(np.abs(weight))) or 1.0
        for i in range(n):
            for j in range(n):
                if i == j or not np.isfinite(weight[i, j]):
                    continue
                share = abs(float(weight[i, j])) / top
                colour = SERIES[0] if weight[i, j] > 0 else BAD
                axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=colour, alpha=0.08 + 0.6 * share, linewidth=0))
                if n <= 8:
                    bold = clear is not None and bool(clear[i, j])
                    axes.text(j, i, f"{weight[i, j]:.3g}", ha="center", va="center", fontsize=8.5, fontweight="bold" if bold else "normal")
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_xticks(range(n), list(symbols), rotation=0 if n <= 6 else 90)
        axes.set_yticks(range(n), list(symbols))
        axes.set_xlabel("leads")
        axes.set_ylabel("follows")
        axes.grid(False)

    return drawing(name, draw, THIRD)


def learning_curves(name: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Losses by epoch or iteration: {curve: values}. What all curves' names share ("stop_rmse_bps") names the axis, the rest the lines."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        what, labels = _shared_part(list(curves))
        for i, (label, values) in enumerate(zip(labels, curves.values(), strict=True)):
            colour, dash = SERIES[i % len(SERIES)], ("-", "--", ":")[i // len(SERIES) % 3]
            dots = "o" if len(values) < 3 else ""
            axes.plot(np.arange(1, len(values) + 1), values, marker=dots, linestyle=dash, color=colour, markersize=3, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.set_xlabel("epoch or iteration")
        axes.set_ylabel(what)
        if len(labels) > 1:
            _legend(axes)

    return drawing(name, draw, THIRD)


def _shared_part(names: Sequence[str]) -> tuple[str, list[str]]:
    """("stop rmse bps", ["AAPL", "AMZN"]) of ["AAPL_stop_rmse_bps", "AMZN_stop_rmse_bps"]: words at one end that all names have."""
    words = [name.split("_") for name in names]
    if len(words) == 1:
        return " ".join(words[0]), [names[0]]
    shortest = min(map(len, words), default=1) - 1
    front = next((k for k in range(shortest, 0, -1) if len({tuple(w[:k]) for w in words}) == 1), 0)
    back = 0 if front else next((k for k in range(shortest, 0, -1) if len({tuple(w[-k:]) for w in words}) == 1), 0)
    what = words[0][:front] if front else words[0][len(words[0]) - back :]
    return " ".join(what), [" ".join(w[front : len(w) - back]) for w in words]
