"""One self-contained HTML page a person understands in a minute: verdicts on top, then the tables and drawings they rest on.

No script, no font, no image from elsewhere; the page forbids them itself. Light and dark by the reader's setting. Everything that came from
outside (names, reasons) is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cift_models.errors import DataError
from cift_models.evaluation import backtest, calibration, plots
from cift_models.evaluation.evaluated import Evaluated
from cift_models.evaluation.marginal import CREDIT
from cift_models.evaluation.metrics import METRICS, MODELS, by_half_hour, by_regime, told_apart
from cift_models.splits import STOP, TEST, BlockCalendar

PREFERRED = ("ensemble", "meta_learner", "linear")
"""The model the verdicts speak of: the first of these that forecasts the move."""


@dataclass(frozen=True, slots=True)
class TruthRow:
    """One planted quantity and what was found of it; `lo` and `hi` where the finding has an interval."""

    name: str
    planted: float | str
    found: float | str
    lo: float | None
    hi: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Regimes:
    """Filtered chances of one symbol's regimes on its test rows: as_of int64[n] ns, p float64[n, K], names of the K regimes."""

    symbol: str
    as_of: NDArray[np.int64]
    p: NDArray[np.float64]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernels:
    """One symbol's Hawkes kernels: lag_s float64[k], {"buy -> buy": events per second float64[k], ...}."""

    symbol: str
    lag_s: NDArray[np.float64]
    curves: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class LeadLag:
    """weight[i, j]: how much symbol j leads symbol i; lo and hi where intervals are known."""

    symbols: tuple[str, ...]
    weight: NDArray[np.float64]
    lo: NDArray[np.float64] | None = None
    hi: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line a person reads first. tone is good, bad, or neutral (nothing can be said, or nothing need be)."""

    symbol: str
    tone: str
    text: str


def spokesman(metrics: Mapping[str, Any], symbol: str) -> str | None:
    """The model that the verdicts of a symbol speak of."""
    models = metrics["symbols"][symbol]
    return next((m for m in (*PREFERRED, *MODELS, *models) if m in models and models[m]["r2"]["value"] is not None), None)


def verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """The lines on top: for each symbol skill, gain over the reference, calibration, costs and timing; then the alarms."""
    lines: list[Verdict] = []
    for symbol in metrics["symbols"]:
        model = spokesman(metrics, symbol)
        if model is None:
            lines.append(Verdict(symbol, "neutral", "No model forecasts the move."))
            continue
        figures, reference = metrics["symbols"][symbol][model], metrics["settings"]["reference"]
        lines.append(_skill(symbol, model, figures["r2"]))
        if model != reference:
            pair = metrics["paired"][symbol][model]
            gain = pair["r2_gain"]
            tone = "neutral" if gain["lo"] is None or gain["lo"] <= 0 <= gain["hi"] else "good" if gain["lo"] > 0 else "bad"
            lines.append(Verdict(symbol, tone, _beside(model, pair["text"], gain)))
        lines += _chances(symbol, model, metrics["calibration"][symbol].get(model))
        lines += _money(symbol, model, figures, metrics["economics"][symbol].get(model, {}))
        lines += _left(symbol, metrics["concentration"][symbol].get(model), metrics["half_life_ms"][symbol].get(model))
    lines += [Verdict(alarm["symbol"], "bad", f"Alarm: {alarm['text']}") for alarm in metrics["alarms"]]
    return [Verdict(line.symbol, line.tone, _typeset(line.text)) for line in lines]


def _typeset(text: str) -> str:
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text.replace("R2", "R²"))


def _skill(symbol: str, model: str, r2: Mapping[str, Any]) -> Verdict:
    value = f"{100 * r2['value']:.2f} %"
    if r2["lo"] is None:
        return Verdict(symbol, "neutral", f"{model} explains {value} of squared 1-s moves ({r2['reason']}).")
    band = f"95 %: {100 * r2['lo']:.2f} to {100 * r2['hi']:.2f}"
    if r2["lo"] > 0:
        return Verdict(symbol, "good", f"{model} explains {value} of squared 1-s moves ({band}).")
    if r2["hi"] < 0:
        return Verdict(symbol, "bad", f"{model} is worse than forecasting no move: {value} ({band}).")
    return Verdict(symbol, "neutral", f"{model} shows no skill that these rows can prove: {value} ({band}).")


def _beside(model: str, text: str, gain: Mapping[str, Any]) -> str:
    """Model against reference, in points of the R2 that stands above it: a reader compares the two."""
    if gain["lo"] is None:
        return f"{text.capitalize()}."
    value, low, high = (100 * gain[end] for end in ("value", "lo", "hi"))
    return f"{model} is {text.split(':')[0]}: {value:+.2f} points of R2 (95 %: {low:+.2f} to {high:+.2f})."


def _chances(symbol: str, model: str, found: Mapping[str, Any] | None) -> list[Verdict]:
    if found is None or found["passes"] is None:
        return []
    slope = found["slope"]
    text = f"calibration slope {slope['value']:.2f} (95 %: {slope['lo']:.2f} to {slope['hi']:.2f}), ECE {found['ece']:.3f}"
    text += f" against {found['point_99']:.3f} at the 99 % point of perfect models"
    if found["passes"] and slope["lo"] <= 0:
        return [Verdict(symbol, "neutral", f"Too little direction to judge its calibration: {text}.")]
    if found["passes"]:
        return [Verdict(symbol, "good", f"Calibrated: {text}.")]
    why = "chances too shy" if slope["lo"] > 1 else "chances too sure" if slope["hi"] < 1 else "ECE too great"
    return [Verdict(symbol, "bad", f"Not calibrated, {why}: {text}.")]


def _money(symbol: str, model: str, figures: Mapping[str, Any], economics: Mapping[str, Any]) -> list[Verdict]:
    lines = []
    timing, null = figures["timing_value_bps"], economics.get("timing_null", {}).get("max")
    if timing["lo"] is not None:
        tone = "good" if timing["lo"] > 0 and (null is None or timing["value"] > null) else "neutral"
        beside = "" if null is None else f"; shifted forecasts reach {null:.3f}"
        band = f"95 %: {timing['lo']:.3f} to {timing['hi']:.3f}{beside}"
        lines.append(Verdict(symbol, tone, f"A patient order saves {timing['value']:.3f} bps by waiting for {model} ({band})."))
    net, count = figures["net_per_trade_bps"], figures["n_trades"]["value"]
    if net["value"] is not None:
        verb = "earns" if net["value"] > 0 else "loses"
        text = f"Taking liquidity {verb} {abs(net['value']):.2f} bps a round trip after costs ({count:,.0f} round trips)"
        profit = net["lo"] is not None and net["lo"] > 0
        lines.append(
            Verdict(symbol, "bad" if profit else "neutral", text + (": a profit at 1 s is a bug until proved." if profit else "."))
        )
    elif count == 0 and "rule" in economics:
        lines.append(Verdict(symbol, "neutral", "It takes no liquidity: no forecast passes its threshold (0 round trips)."))
    return lines


def _left(symbol: str, concentrated: Mapping[str, Any] | None, half_life: Mapping[str, Any] | None) -> list[Verdict]:
    """What is left of the skill without its best minutes, and how long it lives."""
    lines = []
    rest = None if concentrated is None else concentrated["r2_without_best_five"]
    share = None if concentrated is None else concentrated["best_five_share"]
    if rest is not None and share is not None and rest["lo"] is not None and share["value"] is not None:
        band = f"R2 without them {100 * rest['value']:.2f} %, 95 %: {100 * rest['lo']:.2f} to {100 * rest['hi']:.2f}"
        lines.append(
            Verdict(
                symbol, "good" if rest["lo"] > 0 else "neutral", f"Its best five minutes are {100 * share['value']:.0f} % of it ({band})."
            )
        )
    if half_life is not None and half_life["value"] is not None:
        band = "" if half_life["lo"] is None else f" (95 %: {half_life['lo']:,.0f} to {half_life['hi']:,.0f})"
        lines.append(Verdict(symbol, "neutral", f"Half of it is gone after {half_life['value']:,.0f} ms{band}."))
    elif half_life is not None and "half is" in half_life["reason"]:
        lines.append(Verdict(symbol, "neutral", f"{half_life['reason'].capitalize()}."))
    return lines


_COLUMNS = (
    ("r2", "R²", 4),
    ("hit_rate", "hits on moves", 3),
    ("log_loss_direction", "direction loss", 4),
    ("log_loss_activity", "activity loss", 4),
    ("calibration_slope", "slope", 2),
    ("timing_value_bps", "timing, bps", 3),
    ("net_per_trade_bps", "net a trade, bps", 2),
    ("n_trades", "trades", 0),
)
_DIGITS = {"log_loss": 4, "brier": 4, "accuracy": 3, "mcc": 3, "ece": 4, "sharpe_net": 2} | {name: digits for name, _, digits in _COLUMNS}


def _number(value: float | None, digits: int) -> str:
    # round(..) + 0.0: what rounds to 0 has no sign.
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def table_for_terminal(metrics: Mapping[str, Any], symbol: str) -> list[list[str]]:
    """Header and one row a model that took part: name, R2 with interval, gain over the reference, and the columns of the report's table."""
    header = ["model", "R²", "95 %", f"gain over {metrics['settings']['reference']}", *(title for _, title, _ in _COLUMNS[1:])]
    rows = [header]
    for model, figures in _ordered(metrics["symbols"][symbol]):
        if not _took_part(figures):
            continue
        r2 = figures["r2"]
        band = "" if r2["lo"] is None else f"{_number(r2['lo'], 4)} to {_number(r2['hi'], 4)}"
        rest = [_number(figures[name]["value"], digits) for name, _, digits in _COLUMNS[1:]]
        rows.append([model, _number(r2["value"], 4), band, _gain(metrics, symbol, model), *rest])
    return rows


def _ordered(models: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Models in the order of REGISTRY, whatever a JSON file's keys are sorted by; others after them."""
    return [(m, models[m]) for m in (*MODELS, *(m for m in models if m not in MODELS)) if m in models]


def _took_part(figures: Mapping[str, Any]) -> bool:
    return any(f["value"] is not None for f in figures.values())


def _gain(metrics: Mapping[str, Any], symbol: str, model: str) -> str:
    pair = metrics["paired"][symbol].get(model)
    if pair is None or pair["r2_gain"]["lo"] is None:
        return ""
    low, high = (f"{pair['r2_gain'][end]:+.4f}".replace("-", "−") for end in ("lo", "hi"))
    return f"{low} to {high}"


def _cell(figure: Mapping[str, Any], digits: int) -> str:
    if figure["value"] is None:
        return f'<td class="none" title="{escape(figure["reason"])}">–</td>'
    title = f' title="{escape(figure["reason"])}"' if figure.get("reason") else ""
    band = ""
    if figure["lo"] is not None:
        band = f"<small>{_number(figure['lo'], digits)} … {_number(figure['hi'], digits)}</small>"
    return f"<td{title}><b>{_number(figure['value'], digits)}</b>{band}</td>"


def _main_table(metrics: Mapping[str, Any], symbol: str, model: str | None) -> str:
    reference = metrics["settings"]["reference"]
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in _COLUMNS[1:])
    rows = []
    for name, figures in _ordered(metrics["symbols"][symbol]):
        if not _took_part(figures):
            continue
        mark = ' class="lead"' if name == model else ' class="base"' if name == reference else ""
        pair = metrics["paired"][symbol].get(name)
        gain = _gain(metrics, symbol, name)
        tone = ""
        if pair is not None and pair["r2_gain"]["lo"] is not None:
            tone = " good" if pair["r2_gain"]["lo"] > 0 else " bad" if pair["r2_gain"]["hi"] < 0 else ""
        t = "" if pair is None or pair["dm_60s"]["t"] is None else f"<small>t {_number(pair['dm_60s']['t'], 1)}</small>"
        shown = f"<b>{gain}</b>{t}" if gain else '<span class="none">–</span>' if name != reference else "<small>the reference</small>"
        cells = _cell(figures["r2"], 4) + f'<td class="gain{tone}">{shown}</td>'
        cells += "".join(_cell(figures[key], digits) for key, _, digits in _COLUMNS[1:])
        rows.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th>model</th><th>R²</th><th>R² gain over {escape(reference)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _full_table(metrics: Mapping[str, Any], symbol: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in METRICS)
    rows = "".join(
        f'<tr><th scope="row">{escape(model)}</th>{"".join(_cell(figures[name], _DIGITS[name]) for name in METRICS)}</tr>'
        for model, figures in metrics["common"][symbol].items()
    )
    return (
        f"<details><summary>All metrics on the {metrics['common_rows'][symbol]:,} rows where every model speaks</summary>"
        f'<div class="scroll"><table><thead><tr><th>model</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _truth_table(truth: Sequence[TruthRow]) -> str:
    def show(value: float | str | None) -> str:
        return "–" if value is None else escape(value) if isinstance(value, str) else f"{value:.4g}".replace("-", "−")

    rows = []
    for row in truth:
        tone = ""
        if row.lo is not None and row.hi is not None and not isinstance(row.planted, str):
            tone = "good" if row.lo <= row.planted <= row.hi else "bad"
        band = "–" if row.lo is None or row.hi is None else f"{show(row.lo)} … {show(row.hi)}"
        rows.append(
            f'<tr><th scope="row">{escape(row.name)}</th><td>{show(row.planted)}</td><td><b>{show(row.found)}</b></td><td>{band}</td>'
            f'<td class="word {tone}">{escape(row.verdict)}</td></tr>'
        )
    return (
        '<section><h2>Planted and found</h2><p class="lede">The market was simulated with these truths; the models never saw them.</p>'
        '<div class="scroll"><table class="narrow"><thead><tr><th>quantity</th><th>planted</th><th>found</th><th>95 %</th>'
        f'<th class="word">verdict</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _figure(title: str, svg: str, note: str = "", width: str = "") -> str:
    """width: "third", "wide" or "full" of the page; else what a wide one leaves."""
    kind = f' class="{width}"' if width else ""
    caption = f"<p>{escape(note)}</p>" if note else ""
    return f'<figure{kind}><figcaption><h3>{escape(title)}</h3>{caption}</figcaption><div class="drawn">{svg}</div></figure>'


def _drawn_models(metrics: Mapping[str, Any], symbol: str, model: str | None) -> list[str]:
    """The spokesman, the reference, and the best other one: three lines can be read, all of them cannot."""
    r2 = {name: f["r2"]["value"] for name, f in metrics["symbols"][symbol].items() if f["r2"]["value"] is not None}
    first = [name for name in (model, metrics["settings"]["reference"]) if name in r2]
    others = sorted((name for name in r2 if name not in first), key=lambda name: -r2[name])
    return list(dict.fromkeys([*first, *others[:1]]))  # type: ignore[list-item]


def _figures(
    metrics: Mapping[str, Any], symbol: str, model: str | None, data: Evaluated | None, zone: str, regimes: Regimes | None
) -> list[str]:
    """In the order of a reader's questions: can I believe it, what is it worth, when does it hold, how fast does it go, who else."""
    table, shown = metrics["symbols"][symbol], _drawn_models(metrics, symbol, model)
    out = []
    if data is not None:
        out += _reliability(symbol, data, shown)
    out += _timing(metrics, symbol, model)
    if data is not None:
        out += _equity(symbol, model, data)
        out += _by_regime(symbol, data, shown, regimes)
        out += _by_half_hour(symbol, data, shown, zone)
    bars = [(name, f["r2"]["value"], f["r2"]["lo"], f["r2"]["hi"]) for name, f in _ordered(table) if f["r2"]["value"] is not None]
    decay = {
        name: [
            (row["delay_ms"], row["value"], row["lo"], row["hi"])
            for row in metrics["delays"][symbol].get(name, [])
            if row["value"] is not None
        ]
        for name in shown
    }
    decay = {name: rows for name, rows in decay.items() if len(rows) > 1}
    if decay:
        out.append(_figure("How fast it dies", plots.delay_decay(f"{symbol}-delay", decay), "The same forecasts, judged on later moves."))
    if bars:
        svg = plots.r2_bars(f"{symbol}-r2", bars, shown)
        out.append(_figure("Skill by model", svg, "R² against a forecast of no move, with 95 % block intervals.", "wide"))
    return out


def _reliability(symbol: str, data: Evaluated, shown: Sequence[str]) -> list[str]:
    curves = {}
    for name in shown:
        forecast = data.forecasts.get(name)
        if forecast is not None and forecast.p is not None and data.y[forecast.ready].any():
            curves[name] = calibration.reliability(data.y[forecast.ready], forecast.p[forecast.ready])
    if not curves:
        return []
    note = "Ten bins of equal size; on the dashed line the chances mean what they say."
    return [_figure("Reliability of direction", plots.reliability_curve(f"{symbol}-reliability", curves), note)]


def _timing(metrics: Mapping[str, Any], symbol: str, model: str | None) -> list[str]:
    economics = metrics["economics"][symbol].get(model, {}) if model else {}
    rows = [(r["delay_ms"], r["value"], r["lo"], r["hi"]) for r in economics.get("timing_by_delay", []) if r["value"] is not None]
    if not rows:
        return []
    svg = plots.timing_decay(f"{symbol}-timing", rows, economics["timing_null"]["max"])
    sizes = economics.get("touch_size", {}).get("timing", {})
    note = f"What a patient order saves against a 10-s TWAP by waiting for {model}, with 95 % intervals."
    if sizes.get("median_lots") is not None:
        note += f" Where it crosses, the touch shows {sizes['median_lots']:,.0f} lots (median)."
    return [_figure("What its timing is worth", svg, note, "wide")]


def _by_regime(symbol: str, data: Evaluated, shown: Sequence[str], regimes: Regimes | None) -> list[str]:
    if regimes is None:
        return []
    found = {name: by_regime(data, name, regimes.as_of, regimes.p, regimes.names) for name in shown if name in data.forecasts}
    labels = max((labels for labels, _, _ in found.values()), key=len, default=[])
    # The models are ready on different rows, so a label's row count is the first one's; the names are what parts are matched by.
    names = [label.split(",")[0] for label in labels]
    series = {name: _aligned(names, [label.split(",")[0] for label in own], value, error) for name, (own, value, error) in found.items()}
    if not labels:
        return []
    svg = plots.r2_by_part(f"{symbol}-by-regime", labels, series, plots.SQUARE)
    return [_figure("Skill by regime", svg, "Rows by their likeliest filtered regime. Shown, never gated.")]


def _by_half_hour(symbol: str, data: Evaluated, shown: Sequence[str], zone: str) -> list[str]:
    halves = {name: by_half_hour(data, name, zone) for name in shown if name in data.forecasts}
    labels = max((found for found, _, _ in halves.values()), key=len, default=[])
    if len(labels) < 2:
        return []
    series = {name: _aligned(labels, *found) for name, found in halves.items()}
    svg = plots.r2_by_part(f"{symbol}-half-hour", labels, series)
    bare = any((~(error[~np.isnan(value)] > 0)).any() for value, error in series.values())
    note = f"Times in {zone}. Shown, never gated.{' Hollow: too short for an interval.' if bare else ''}"
    return [_figure("Skill by half-hour", svg, note, "wide")]


def _aligned(
    labels: Sequence[str], found: Sequence[str], value: NDArray[np.float64], error: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    places = {label: i for i, label in enumerate(found)}
    pick = [places.get(label) for label in labels]
    return (
        np.array([np.nan if i is None else value[i] for i in pick]),
        np.array([np.nan if i is None else error[i] for i in pick]),
    )


def _equity(symbol: str, model: str | None, data: Evaluated) -> list[str]:
    forecast = data.forecasts.get(model) if model else None
    if forecast is None or forecast.mean_bps is None or forecast.rule is None:
        return []
    trades = backtest.trade(data, forecast.mean_bps, forecast.ready, forecast.rule)
    if not len(trades):
        return []
    order = np.argsort(trades.exit, kind="stable")
    hours = (data.as_of - data.as_of[0]) / 3.6e12
    at = hours[trades.exit[order]]
    curves = {
        "before costs": (at, np.cumsum(trades.gross_bps[order])),
        "after half-spread and fees": (at, np.cumsum(trades.net_bps[order])),
    }
    note = f"{len(trades):,} round trips of {model} at the touch, cumulated by time of exit."
    return [_figure("Taking liquidity", plots.equity_curve(f"{symbol}-equity", hours, curves), note, "wide")]


def render(
    metrics: Mapping[str, Any],
    data: Sequence[Evaluated] = (),
    *,
    title: str = "CIFT evaluation",
    subtitle: str = "",
    zone: str = "UTC",
    truth: Sequence[TruthRow] = (),
    regimes: Sequence[Regimes] = (),
    kernels: Sequence[Kernels] = (),
    lead_lag: LeadLag | None = None,
    curves: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    calendar: BlockCalendar | None = None,
    card: Mapping[str, Any] | None = None,
    offsets: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The report as one HTML document. `metrics` is a metrics.json; every other input is optional and adds its sections.

    data      the rows that the metrics were made of: reliability, half-hours, regimes and the P&L curve need them
    calendar  which rows taught what
    offsets   what `offsets.by_offset` found: whether the linear models live on the round second
    card      the gate's: {"verdict": "promoted" or "held", "reasons": [text, ...]}; it stands first
    zone      of the half-hours' labels
    curves    learning curves: {model: {curve: values}}
    """
    by_symbol = {d.symbol: d for d in data}
    body = [_top(metrics, title, subtitle, card, offsets or {})]
    if truth:
        body.append(_truth_table(truth))
    body.append(_switches(metrics))
    for symbol in metrics["symbols"]:
        model = spokesman(metrics, symbol)
        own = next((r for r in regimes if r.symbol == symbol), None)
        figures = _figures(metrics, symbol, model, by_symbol.get(symbol), zone, own)
        for kernel in (k for k in kernels if k.symbol == symbol):
            svg = plots.kernel_curves(f"{symbol}-kernel", kernel.lag_s, kernel.curves)
            figures.append(_figure("Order arrivals excite each other", svg, "Hawkes kernels."))
        for strip in (r for r in regimes if r.symbol == symbol):
            hours = (strip.as_of - strip.as_of[0]) / 3.6e12
            svg = plots.regime_strip(f"{symbol}-regimes", hours, strip.p, told_apart(strip.names))
            figures.append(_figure("Regimes", svg, "Filtered: each instant knows its past only.", "full"))
        body.append(
            f'<section id="{escape(symbol)}"><h2>{escape(symbol)}</h2><p class="lede">{metrics["rows"][symbol]:,} test rows. '
            f"Intervals are 95 %, from 60-s blocks; rest the pointer on a dash for its reason.</p>"
            f'{_main_table(metrics, symbol, model)}<div class="figures">{"".join(figures)}</div>{_marginal_table(metrics, symbol)}'
            f"{_full_table(metrics, symbol)}</section>"
        )
    body.append(_shared(lead_lag, curves or {}))
    if calendar is not None:
        body.insert(len(body) - 1, _calendar(calendar, zone))
    body.append(_foot(metrics))
    return _PAGE.replace("{title}", escape(title)).replace("{body}", "\n".join(part for part in body if part))


def drawings(page: str) -> dict[str, str]:
    """The figures of a rendered report as SVG files of their own, by name, in the light colours of the page."""
    colours = re.search(r":root \{(.*?)\}", page, re.DOTALL)
    style = f"<style>svg {{{colours[1] if colours else ''} background: #ffffff; }}</style>"
    found = re.findall(r'(<svg class="plot" data-name="([^"]+)" [^>]*>)(.*?</svg>)', page, re.DOTALL)
    return {name: head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + style + rest for head, name, rest in found}


_UNJUDGED = '<div id="unjudged" hidden></div>'
"""Where the verdict will stand: a page is drawn before the gate has spoken."""


def with_card(page: str, card: Mapping[str, Any]) -> str:
    """A page that was rendered without a card, with the verdict and its reasons put first: what the gate writes once it has spoken.

    Raises DataError for a page that has a verdict, or is no report.
    """
    if page.count(_UNJUDGED) != 1:
        raise DataError("This page has no place for a verdict. Expected a report without one.", hint="Render it again from metrics.json.")
    return page.replace(_UNJUDGED, _verdict(card))


def _verdict(card: Mapping[str, Any] | None) -> str:
    """The gate's word and why, before anything else. Without a card: nobody has judged this run yet."""
    if card is None:
        return _UNJUDGED
    promoted = card["verdict"] == "promoted"
    tone, meaning = ("good", "it may be served") if promoted else ("bad", "what was served stays")
    reasons = "".join(f'<li class="{tone}">{_marked(str(reason))}</li>' for reason in card["reasons"])
    return (
        f'<section class="verdict {tone}"><h2><span class="{tone}">{escape(str(card["verdict"]).capitalize())}</span>'
        f"<small>{meaning}</small></h2>{_contenders(card)}<ul>{reasons}</ul>{_clauses(card)}</section>"
    )


def _marked(text: str) -> str:
    """A reason with its commands set as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(_typeset(text)))


def _contenders(card: Mapping[str, Any]) -> str:
    if "challenger" not in card:
        return ""
    ours, rival = card["challenger"], card["champion"]
    said = f"{rival['model']} of {rival['release'][:12]}, which is served" if rival["release"] else f"{rival['model']} of its own run"
    who = f"{ours['model']} of release {ours['release'][:12]}" if ours["release"] else ours["model"]
    return f'<p class="lede">{escape(who)} against {escape(said)}</p>'


_ASKED = {
    "rows": "the same for both, none learned from",
    "better": "than the rival and than nothing, on a symbol",
    "worse": "in R² on no symbol",
    "direction": "worse on no symbol",
    "timing": "worse on no symbol",
    "economics": "timing beats that of shifted forecasts",
    "latency": "quicker than its timing lasts",
    "calibration": "slope within reach of 0.8 to 1.25, ECE too",
    "alarms": "none rings",
    "nulls": "better on hardly any label without direction",
    "audit": "nothing knows its future",
    "code": "the one that made it judges it",
    "certificate": "the judge is proved, as it is",
}
"""What each clause of the gate asks, in a line; gate.py has them whole."""


def _clauses(card: Mapping[str, Any]) -> str:
    """Every clause, kept or not, in the gate's order: one reason alone does not say what else was asked."""
    kept = card.get("clauses", {})
    if not kept:
        return ""
    nulls = card.get("nulls")
    counted = {"nulls": f"better on {nulls['promoted']} of {nulls['n']} labels without direction"} if nulls else {}
    items = []
    for name in (*(n for n in _ASKED if n in kept), *(n for n in kept if n not in _ASKED)):
        tone, sign, word = ("good", "✓", "kept") if kept[name] else ("bad", "✗", "not kept")
        asked = counted.get(name, _ASKED.get(name, ""))
        items.append(
            f'<li class="{"kept" if kept[name] else "failed"}"><span class="{tone}" role="img" aria-label="{word}">{sign}</span>'
            f"<b>{escape(name)}</b> {escape(asked)}</li>"
        )
    return f'<p class="lede count">{sum(kept.values())} of {len(kept)} clauses kept</p><ul class="clauses">{"".join(items)}</ul>'


def _calendar(calendar: BlockCalendar, zone: str) -> str:
    """The ten blocks as a strip: what each was used for, and when it was."""
    from datetime import datetime
    from zoneinfo import ZoneInfo

    def clock(ns: int, day: bool) -> str:
        return datetime.fromtimestamp(ns // 10**9, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M" if day else "%H:%M")

    days = {span.session for spans in calendar.blocks for span in spans}
    cells = []
    for block, spans in enumerate(calendar.blocks):
        role, words = ("test", "judged") if block in TEST else ("stop", "stopping, thresholds") if block == STOP else ("fit", "fitted on")
        rows = sum((span.last - span.first) // calendar.clock_ns + 1 for span in spans)
        first, last = clock(spans[0].first, len(days) > 1), clock(spans[-1].last, len(days) > 1)
        cells.append(
            f'<div class="{role}"><b>b{block}</b><span>{words}</span><small>{escape(first)} … {escape(last)}</small>'
            f"<small>{rows:,} instants</small></div>"
        )
    return (
        '<section><h2>Which rows taught what</h2><p class="lede">Blocks in the order of time. Each model was fitted on the past of what it '
        "predicts, with a gap before the next block; what is judged is the fit that would be served. "
        f'Times in {escape(zone)}.</p><div class="calendar">{"".join(cells)}</div></section>'
    )


def _marginal_table(metrics: Mapping[str, Any], symbol: str) -> str:
    """What each model of the stack adds, and costs. Those that were not part of the run are left out."""
    rows = []
    for model, row in _ordered(metrics["marginal"][symbol]):
        if not row["rows"]:
            continue
        tone = " good" if row["text"].startswith("adds:") else " bad" if row["text"].startswith("takes") else ""
        word = row["text"].split(":")[0]
        over = ", ".join(name for name, _ in _ordered(dict.fromkeys(row["over"]))) or "no forecast"
        live, fit = row["live_ms"], row["fit_minutes"]
        costs = [
            f'<td class="none" title="{escape(row.get("cost_reason", ""))}">–</td>' if value is None else f"<td>{value:,.{digits}f}</td>"
            for value, digits in ((live, 3), (fit, 2))
        ]
        rows.append(
            f'<tr><th scope="row">{escape(model)}</th><td class="word{tone}"><b>{escape(word)}</b><small>to {escape(over)}</small></td>'
            f"{_cell(row['r2_gain'], 4)}{_cell(row['direction_gain'], 4)}{_cell(row['over_base'], 4)}{''.join(costs)}</tr>"
        )
    if not rows:
        return ""
    return (
        '<h3 class="apart">What each model adds to the stack, and costs</h3><p class="lede">The stack with it against the stack without it '
        'and without all that reads it, on the same rows.</p><div class="scroll"><table><thead><tr><th>model</th><th class="word">it …</th>'
        "<th>R² gain</th><th>direction gain, nats</th><th>R² gain over its base</th><th>ms a live update</th><th>minutes of fits</th>"
        "</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _switches(metrics: Mapping[str, Any]) -> str:
    """Which models are credited, and why: one row each, the gains of every symbol beside the word."""
    symbols, rows = list(metrics["symbols"]), []
    for model, one in _ordered(metrics["switches"]):
        word = one["reason"].split(": ")[0]
        cells = "".join(_gains(metrics["marginal"][symbol][model]) for symbol in symbols)
        tone = " good" if one["switch"] == "on" else ""
        rows.append(
            f'<tr><th scope="row">{escape(model)}</th><td class="word{tone}"><b>{one["switch"]}</b></td>'
            f'<td class="said">{escape(_typeset(word))}</td>{cells}</tr>'
        )
    if not rows:
        return ""
    head = "".join(f"<th>{escape(symbol)}</th>" for symbol in symbols)
    return (
        '<section><h2>Which models are credited</h2><p class="lede">On: it adds to the stack that has not read it, on some symbol beyond '
        f"noise (p at most {CREDIT:g}), and takes away on none; a network is above strong_linear, a line with a longer memory of trades, "
        "too. Off is a statement: what was judged is served as it is, and the weights that it has were chosen before the test. "
        'Gains are 95 % intervals, of R² and of direction in nats a move.</p><div class="scroll"><table><thead><tr><th>model</th>'
        f'<th class="word">switch</th><th class="word">why</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>'
    )


def _gains(row: Mapping[str, Any]) -> str:
    """One model on one symbol: its gains of R2, of direction, of a network over the strong line; coloured where 0 is left out."""
    lines = []
    for name, key in (("R²", "r2_gain"), ("direction", "direction_gain"), ("over strong_linear", "over_strong")):
        gain = row[key]
        if gain["lo"] is not None:
            tone = ' class="good"' if gain["lo"] > 0 else ' class="bad"' if gain["hi"] < 0 else ""
            band = f"{gain['lo']:+.4f} … {gain['hi']:+.4f}".replace("-", "−")
            lines.append(f"<div><i>{name}</i> <span{tone}>{band}</span></div>")
    if not lines:
        return f'<td class="none" title="{escape(row["r2_gain"].get("reason") or "no interval")}">–</td>'
    return f'<td class="gains">{"".join(lines)}</td>'


def _moments(offsets: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """One line a symbol: does it live on the round second. Of the spokesman where it was asked, else of the first that was."""
    lines = []
    for symbol, by_kind in offsets.items():
        kind = next((k for k in PREFERRED if k in by_kind), next(iter(by_kind)))
        gain = by_kind[kind]["round_second"]
        if gain["lo"] is not None:
            tone = "bad" if gain["lo"] > 0 else "good"
            lines.append(Verdict(symbol, tone, _typeset(f"{kind}: {by_kind[kind]['text']}.")))
    return lines


def _top(
    metrics: Mapping[str, Any], title: str, subtitle: str, card: Mapping[str, Any] | None, offsets: Mapping[str, Mapping[str, Any]]
) -> str:
    lines = [*verdicts(metrics), *_moments(offsets)]
    alarms = len(metrics["alarms"])
    badge = (
        f'<span class="badge bad">{alarms} alarm{"s" if alarms > 1 else ""}</span>'
        if alarms
        else '<span class="badge good">no alarm</span>'
    )
    cards = []
    for symbol in metrics["symbols"]:
        model = spokesman(metrics, symbol)
        r2 = metrics["symbols"][symbol][model]["r2"] if model else None
        big = f"{100 * r2['value']:.2f}<i>%</i>".replace("-", "−") if r2 else "–"
        items = "".join(f'<li class="{line.tone}">{escape(line.text)}</li>' for line in lines if line.symbol == symbol)
        cards.append(
            f'<article><header><h2><a href="#{escape(symbol)}">{escape(symbol)}</a></h2>'
            f'<div class="big">{big}<small>R², {escape(model or "nobody")}</small></div></header><ul>{items}</ul></article>'
        )
    sub = f'<p class="lede">{escape(subtitle)}</p>' if subtitle else ""
    head = f'<header class="top"><div><h1>{escape(title)}</h1>{sub}</div>{badge}</header>'
    return f'{head}{_verdict(card)}<div class="cards">{"".join(cards)}</div>'


def _shared(lead_lag: LeadLag | None, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    figures = []
    if lead_lag is not None:
        clear = None if lead_lag.lo is None or lead_lag.hi is None else (lead_lag.lo > 0) | (lead_lag.hi < 0)
        svg = plots.lead_lag_matrix("lead-lag", lead_lag.symbols, lead_lag.weight, clear)
        note = "The column's symbol leads the row's." + (" Bold: the interval excludes 0." if clear is not None else "")
        figures.append(_figure("Who leads whom", svg, note, "third"))
    for model, values in curves.items():
        values = {name: list(v) for name, v in values.items() if len(v)}
        if values:
            figures.append(_figure(f"Learning: {model}", plots.learning_curves(f"learning-{model}", values), width="third"))
    return f'<section><h2>Across symbols</h2><div class="figures">{"".join(figures)}</div></section>' if figures else ""


def _foot(metrics: Mapping[str, Any]) -> str:
    settings = metrics["settings"]
    return (
        "<footer><p>R² is against a forecast of no move; chance is 0, and a few per cent is a lot for one second. "
        "Direction loss is in nats, given a move; chance is 0.6931. Timing: bps saved against a 10-s TWAP by an order that waits while the "
        f"forecast is against it, {settings['timing_delay_ms']:g} ms late. t: Diebold-Mariano on 60-s blocks, paired.</p>"
        f"<p>{settings['blocks']:,} blocks of {settings['block_s']:g} s, {settings['draws']:,} draws, seed {settings['seed']}. "
        "Nothing here is annualised.</p></footer>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
:root { --page: #f6f6f4; --card: #ffffff; --ink: #1b1d20; --muted: #666c73; --line: #e2e3e0; --good: #197a4b; --bad: #bf2f2f;
  --wash: #f1f4fb; --shade: rgb(0 0 0 / .18); --s0: #2759d8; --s1: #d2700c; --s2: #0e8a83; --s3: #8047c2; --s4: #b3365c; --s5: #6d7a13; }
@media (prefers-color-scheme: dark) { :root { --page: #121416; --card: #1a1d20; --ink: #e9eaec; --muted: #9aa1a8; --line: #2e3237;
  --good: #4cc38a; --bad: #f0706b; --wash: #1e2636; --shade: rgb(255 255 255 / .2);
  --s0: #7aa2ff; --s1: #f2a04d; --s2: #4cc4bb; --s3: #b892f0; --s4: #f0839f; --s5: #b9c653; } }
*, *::before { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 26px; line-height: 1.2; letter-spacing: -.01em; margin: 0; }
h2 { font-size: 19px; margin: 0; letter-spacing: -.005em; }
h3 { font-size: 14px; margin: 0; }
a { color: inherit; text-decoration: none; } a:hover { text-decoration: underline; }
.lede, figcaption p { color: var(--muted); margin: 2px 0 0; }
.top { display: flex; justify-content: space-between; align-items: flex-start; gap: 16px; margin-bottom: 20px; }
.badge { border-radius: 99px; padding: 3px 12px; font-size: 13px; font-weight: 600; border: 1.5px solid; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 16px; }
article, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
article > header { display: flex; justify-content: space-between; align-items: flex-start; }
.big { font-size: 28px; line-height: 1; font-weight: 650; text-align: right; letter-spacing: -.02em; }
.big i { font-style: normal; font-size: 16px; margin-left: 2px; font-weight: 500; }
.big small { display: block; font-size: 12px; font-weight: 400; color: var(--muted); margin-top: 5px; letter-spacing: 0; }
ul { list-style: none; margin: 14px 0 0; padding: 0; display: grid; gap: 8px; font-size: 14px; line-height: 1.4; }
li, li.good, li.bad { padding-left: 18px; position: relative; color: var(--ink); }
li::before { content: ""; position: absolute; left: 0; top: 5px; width: 9px; height: 9px; border-radius: 50%; background: var(--line); }
li.neutral::before { background: none; border: 2px solid var(--muted); }
li.good::before { background: var(--good); } li.bad::before { background: var(--bad); border-radius: 2px; }
section { margin-top: 20px; }
.scroll { overflow-x: auto; margin: 14px -20px 0; padding: 0 20px; }
.gains { font-size: 12px; line-height: 1.45; } .gains i { font-style: normal; color: var(--muted); margin-right: 4px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
thead th { color: var(--muted); font-weight: 500; font-size: 12px; vertical-align: bottom; line-height: 1.25;
  border-bottom: 1px solid var(--line); }
th, td { padding: 6px 0 6px 14px; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; } thead th { white-space: normal; }
tbody th { font-weight: 500; } tbody tr + tr > * { border-top: 1px solid var(--line); }
td b { font-weight: 500; } td small { display: block; color: var(--muted); font-size: 11px; line-height: 1.3; font-weight: 400; }
.none { color: var(--muted); cursor: help; } td.word, th.word, td.said { text-align: left; }
td.said { white-space: normal; min-width: 11em; }
tr.lead > * { background: var(--wash); } tr.lead > th, tr.lead td b { font-weight: 650; }
tr.lead > th:first-child { box-shadow: -20px 0 0 var(--wash); }
tr.lead > td:last-child { box-shadow: 20px 0 0 var(--wash); }
table.narrow { max-width: 860px; }
tr.base > th { font-style: italic; }
.figures { display: grid; grid-template-columns: repeat(12, 1fr); gap: 28px 32px; margin-top: 26px;
  grid-auto-flow: dense; }
figure { margin: 0; grid-column: span 5; min-width: 0; } figure.wide { grid-column: span 7; }
figure.third { grid-column: span 4; } figure.full { grid-column: 1 / -1; }
figcaption { font-size: 13px; margin-bottom: 8px; }
.plot { width: 100%; height: auto; display: block; } .plot text { font-family: inherit !important; }
details { margin-top: 22px; } summary { cursor: pointer; color: var(--muted); font-size: 13.5px; }
footer { color: var(--muted); font-size: 13px; margin-top: 24px; max-width: 80ch; }
.verdict { margin: 0 0 20px; border-width: 2px; border-left-width: 8px; } .verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); } .verdict h2 { font-size: 24px; } .verdict ul { color: var(--ink); font-size: 15px; }
.verdict h2 small { font-size: 14px; font-weight: 400; color: var(--muted); margin-left: 10px; }
.verdict .count { margin-top: 14px; border-top: 1px solid var(--line); padding-top: 12px; font-size: 13.5px; }
.verdict .clauses { grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 4px 24px; margin-top: 6px; font-size: 13px;
  color: var(--muted); }
.clauses li { color: inherit; } .clauses li::before { display: none; } .clauses li > span { position: absolute; left: 0; font-weight: 700; }
.clauses b { font-weight: 500; color: var(--ink); } .clauses .failed b { color: var(--bad); font-weight: 650; }
code { font: .92em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; background: var(--wash); border-radius: 4px;
  padding: 1px 5px; }
h3.apart { margin-top: 30px; }
.calendar { display: grid; grid-template-columns: repeat(10, 1fr); gap: 4px; margin-top: 14px; }
.calendar > div { border-radius: 6px; padding: 8px 9px; font-size: 12.5px; line-height: 1.35; min-width: 0; background: var(--wash);
  border-top: 4px solid var(--s0); }
.calendar .stop { border-color: var(--s1); } .calendar .test { border-color: var(--s2); }
.calendar b, .calendar span, .calendar small { display: block; } .calendar small { color: var(--muted); font-size: 11px; }
@media (max-width: 860px) { .figures { grid-template-columns: minmax(0, 1fr); }
  figure, figure.wide, figure.third, figure.full { grid-column: 1 / -1; }
  .drawn { overflow-x: auto; } figure.wide .plot { min-width: 470px; } figure.full .plot { min-width: 760px; }
  .scroll, .drawn { background: linear-gradient(to right, var(--card) 40%, transparent) left / 36px 100% no-repeat local,
    linear-gradient(to left, var(--card) 40%, transparent) right / 36px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 12px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 12px 100% no-repeat scroll; }
  .calendar { grid-template-columns: repeat(2, 1fr); } .top { flex-wrap: wrap; } .cards { grid-template-columns: minmax(0, 1fr); }
  main { padding: 20px 14px; } }
@media print { body { background: none; } article, section { break-inside: avoid; } }
</style></head><body><main>
{body}
</main></body></html>
"""
