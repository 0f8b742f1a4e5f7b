"""A day's quality in one picture: rows a minute, spread, delay of the receive clock, and what was not recorded. A report in, an SVG out.

The file stands alone, in colours of its own. The same report gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from cift_models.feeds.quality_summary import summarise_report
from cift_models.instruments import SECOND, to_ns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE = "#1c1c1c", "#5f5f5f", "#d9d9d9"
ROWS = {"book": "#2f6db3", "quotes": "#7a9a3a", "trades": "#d1762b"}
SPREAD, DELAY = "#2f6db3", "#7b4fa3"
GAPS = {"feed": ("#c0392b", "gap of the feed"), "hole": ("#7f8c8d", "no file"), "halt": ("#3f9c8f", "halt")}
SILENCE = ("#e2b93b", "silence")
TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400)
"""Distances between two marks of the time axis; the first that needs at most nine marks is taken."""
WIDTH, LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 10.0, 0.7, 0.4, 0.75, 0.75, 0.35
"""Inches: of the picture, of its margins, and between two panels (a legend's line)."""
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cift",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
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
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw(report: Mapping[str, Any]) -> str:
    """The SVG of a report (quality_report.report); a panel without data says why. About .2 s."""
    import matplotlib
    from matplotlib.figure import Figure

    timeline = report["timeline"]
    edges = _local_s(report, timeline["start"] + np.arange(len(timeline["recorded_s"]) + 1, dtype=np.int64) * timeline["bin_s"] * SECOND)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        heights = [2.4, 2.0 if timeline["spread_ticks"] else 0.4, 2.0 if timeline["delay_ms"] else 0.4]
        figure = Figure(figsize=(WIDTH, TOP + sum(heights) + BETWEEN * (len(heights) - 1) + BOTTOM))
        panels = _panels(figure, heights)
        shaded = _shade(panels, report)
        _rows(panels[0], edges, timeline)
        _spread(panels[1], edges, timeline["spread_ticks"], report["instrument"])
        _delay(panels[2], edges, timeline["delay_ms"], report["sources"])
        _time_axis(panels[-1], report)
        if shaded:
            figure.legend(handles=shaded, loc="lower right", bbox_to_anchor=(1 - RIGHT / WIDTH, 0), ncols=len(shaded), handlelength=1.2)
        day = str(report["day"])
        title = f"{report['symbol']} {day[:4]}-{day[4:6]}-{day[6:]}\n{_cut(str(summarise_report(report)))}"
        figure.text(0.1 / WIDTH, 1 - 0.08 / figure.get_figheight(), title, ha="left", va="top")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)


def _panels(figure: Figure, heights: Sequence[float]) -> list[Axes]:
    """One below the other, in inches: a layout engine's solver orders by memory address, and so its last digits change from run to run."""
    out: list[Axes] = []
    top = figure.get_figheight() - TOP
    for height in heights:
        place = (LEFT / WIDTH, (top - height) / figure.get_figheight(), (WIDTH - LEFT - RIGHT) / WIDTH, height / figure.get_figheight())
        out.append(figure.add_axes(place, sharex=out[0] if out else None))
        top -= height + BETWEEN
    for axes in out:
        axes.tick_params(labelbottom=axes is out[-1])
        axes.yaxis.set_label_coords(-0.55 / (WIDTH - LEFT - RIGHT), 0.5)
    return out


def _rows(axes: Axes, edges: NDArray[np.float64], timeline: Mapping[str, Any]) -> None:
    """A bin of which less than half is recorded gives no rate."""
    recorded_s = np.array(timeline["recorded_s"])
    for name, counts in timeline["rows"].items():
        rate = np.where(recorded_s * 2 >= timeline["bin_s"], np.array(counts) * 60 / np.maximum(recorded_s, 1e-9), np.nan)
        axes.stairs(rate, edges, color=ROWS[name], label=name, baseline=None)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("rows a minute" + ("" if timeline["bin_s"] == 60 else f", over {timeline['bin_s']} s"))
    if timeline["rows"]:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, borderaxespad=0.1, handlelength=1.4)


def _spread(axes: Axes, edges: NDArray[np.float64], spread: Mapping[str, Any] | None, instrument: Mapping[str, Any]) -> None:
    tick = instrument["tick_units"] / instrument["price_scale"]
    if spread is None:
        _nothing(axes, "no spread: no book and no quotes")
        return
    axes.set_ylabel(f"spread, ticks of {tick:.10g}")
    _band(axes, edges, spread["mean"], spread["p05"], spread["p95"], SPREAD, f"{spread['table']}: mean over time, 5 to 95 % of rows")
    axes.set_ylim(bottom=0)


def _delay(axes: Axes, edges: NDArray[np.float64], delay: Mapping[str, Any] | None, sources: Sequence[Mapping[str, Any]]) -> None:
    if delay is None:
        clocked = any(source.get("receive_clock") for source in sources)
        _nothing(axes, "no delay of the receive clock: " + ("no row has both times" if clocked else "the feed has one time only"))
        return
    axes.set_ylabel("delay of receipt, ms")
    _band(axes, edges, delay["median"], delay["p01"], delay["p99"], DELAY, "ts_recv - ts_event: median, 1 to 99 % of rows")
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=INK, linewidth=0.8)


def _band(axes: Axes, edges: NDArray[np.float64], middle: Sequence, low: Sequence, high: Sequence, colour: str, label: str) -> None:
    line, bottom, top = (np.array(values, np.float64) for values in (middle, low, high))
    axes.stairs(top, edges, baseline=bottom, fill=True, color=colour, alpha=0.2, linewidth=0)
    axes.stairs(line, edges, color=colour, baseline=None, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1, handlelength=1.4)


def _nothing(axes: Axes, why: str) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _shade(panels: Sequence[Axes], report: Mapping[str, Any]) -> list[Any]:
    """Gaps, halts and silences behind all panels; returns what the legend shows of them."""
    from matplotlib.patches import Patch

    silent = report["silences"]
    stretches = [(gap, *GAPS[gap["kind"]]) for gap in report["gaps"]["longest"]]
    stretches += [(one, *SILENCE) for one in silent["longest"] if one["seconds"] > silent["over_s"]]
    shown = {}
    for one, colour, name in stretches:
        begin, end = _local_s(report, np.array([one["from"], one["to"]], np.int64))
        for axes in panels:
            # The edge keeps a gap of milliseconds visible.
            axes.axvspan(begin, end, facecolor=colour, alpha=0.25, edgecolor=colour, linewidth=0.8, zorder=0)
        shown.setdefault(name, Patch(facecolor=colour, alpha=0.25, edgecolor=colour, label=name))
    return list(shown.values())


def _time_axis(axes: Axes, report: Mapping[str, Any]) -> None:
    begin, end = _local_s(report, np.array([report["hours"]["open"], report["hours"]["close"]], np.int64)).tolist()
    step = next((s for s in TICK_STEPS_S if (end - begin) / s <= 9), TICK_STEPS_S[-1])
    marks = np.arange(np.ceil(begin / step) * step, end + 1e-9, step)
    axes.set_xlim(begin, end)
    axes.set_xticks(marks, [_clock(mark, step < 60) for mark in marks.tolist()])
    axes.set_xlabel(f"time in {report['hours']['zone']}")


def _local_s(report: Mapping[str, Any], ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds after midnight of the venue's day."""
    midnight = datetime.strptime(str(report["day"]), "%Y%m%d").replace(tzinfo=ZoneInfo(report["hours"]["zone"]))
    return (ns - to_ns(midnight)) / SECOND


def _clock(seconds: float, with_seconds: bool) -> str:
    moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=round(seconds))
    return f"{moment:%H:%M:%S}" if with_seconds else f"{moment:%H:%M}"


def _cut(text: str) -> str:
    return text if len(text) <= 145 else f"{text[:142]}..."
