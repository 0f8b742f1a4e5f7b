"""The page: whole, self-contained, honest about what it was not given."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from cift_models import scores
from cift_models.errors import DataError
from cift_models.evaluation import metrics, plots, report
from cift_models.evaluation.marginal import Cost, OutOfFold, Stack
from cift_models.instruments import SECOND, Session
from cift_models.signals import SignalRule
from cift_models.splits import block_calendar
from tests.evaluated import OPEN, forecast, honest, with_forecasts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    return [honest(0, b=0.4), honest(1, symbol="<S&1>", b=0.0)]


@pytest.fixture(scope="module")
def built(data):
    return metrics.build(data, draws=200)


@pytest.fixture(scope="module")
def page(built, data):
    lag = np.logspace(-3, 1, 20)
    early = np.arange(2400) < 900
    return report.render(
        built,
        data,
        title="Two <markets>",
        zone="America/New_York",
        truth=[report.TruthRow("branching", 0.6, 0.58, 0.5, 0.65, "found"), report.TruthRow("lag", 150.0, 300.0, 280.0, 320.0, "missed")],
        regimes=[report.Regimes("S0", data[0].as_of, np.column_stack([early, ~early]).astype(float), ("calm", "wild"))],
        kernels=[report.Kernels("S0", lag, {"buy on buy": 1 / lag})],
        lead_lag=report.LeadLag(
            ("S0", "S1"), np.array([[0, 0.3], [-0.1, 0]]), np.array([[0, 0.2], [-0.3, 0]]), np.array([[0, 0.4], [0.1, 0]])
        ),
        curves={"transformer": {"train": [3.0, 2.0], "valid": [3.1, 2.5]}},
        calendar=block_calendar([Session(20231114, OPEN - 3600 * SECOND, OPEN + 6 * 3600 * SECOND)]),
        card={"verdict": "held", "reasons": ["R2 gain in [-0.0100, +0.0020] over the champion", "no <certificate>"]},
    )


class Outline(HTMLParser):
    """Open tags, ids and headings; complains when a tag is closed that is not open."""

    VOID = frozenset({"meta", "br", "path", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.ids, self.attributes, self.tags = [], [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_it_is_one_well_formed_page_with_different_ids(page):
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids)) > 100
    targets = {value[1:] for name, value in outline.attributes if name == "href"} | set(re.findall(r"url\(#([^)]*)\)", page))
    assert len(targets) > 10 and targets <= set(outline.ids)


def test_it_asks_for_nothing_from_elsewhere(page):
    outline = Outline(page)
    assert not outline.tags & {"script", "img", "link", "iframe", "object"}
    assert all((value or "").startswith("#") for name, value in outline.attributes if name in ("href", "src"))
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page


def test_no_placeholder_colour_is_left(page):
    assert not re.search(r"#0[1-5a-f]0[1-5a-f]0[1-5a-f]\b", page)
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert used <= set(re.findall(r"--(\w+):", page)) and {"ink", "muted", "s0", "s1"} <= used


def test_names_from_outside_are_escaped(page):
    assert "<markets>" not in page and "Two &lt;markets&gt;" in page and "<S&1>" not in page


SECTIONS = {
    "truth": "Planted and found",
    "skill": "Skill by model",
    "delay": "How fast it dies",
    "reliability": "Reliability of direction",
    "half": "Skill by half-hour",
    "equity": "Taking liquidity",
    "regimes": "Regimes",
    "kernel": "Order arrivals excite each other",
    "lead": "Who leads whom",
    "curves": "Learning: transformer",
    "timing": "What its timing is worth",
    "by regime": "Skill by regime",
    "calendar": "Which rows taught what",
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_that_was_given_is_there(page, section):
    assert f">{SECTIONS[section]}</h" in page


def test_sections_that_were_not_given_are_not(built):
    bare = report.render(built)
    there = {name for name, title in SECTIONS.items() if f"<h3>{title}</h3>" in bare or f"<h2>{title}</h2>" in bare}
    assert there == {"skill", "delay", "timing"}
    assert Outline(bare).open == []


def test_the_same_input_gives_the_same_page(built, data):
    assert report.render(built, data) == report.render(built, data)


def test_verdicts_say_what_the_figures_say(built):
    lines = {(v.symbol, v.text.split(" ")[0], v.tone): v.text for v in report.verdicts(built)}
    assert "explains" in lines["S0", "ensemble", "good"] or "better than" in lines["S0", "ensemble", "good"]
    assert not any(v.symbol == "<S&1>" and v.tone == "good" and "explains" in v.text for v in report.verdicts(built))
    r2 = built["symbols"]["S0"]["ensemble"]["r2"]
    assert any(f"{100 * r2['value']:.2f} %" in v.text for v in report.verdicts(built))


def test_a_profit_and_an_alarm_are_bad_news():
    data = honest(2, b=0.3)
    rich = replace(forecast(data.y), rule=SignalRule(threshold_bps=0.5))
    quiet = replace(data, bid=dict.fromkeys(data.bid, data.mid), ask=dict.fromkeys(data.ask, data.mid), half_spread_bps=np.zeros(len(data)))
    built = metrics.build([with_forecasts(quiet, {"linear": data.forecasts["linear"], "ensemble": rich})], draws=200)
    lines = report.verdicts(built)
    assert any("a bug until proved" in v.text and v.tone == "bad" for v in lines)
    assert any(v.text.startswith("Alarm") and v.tone == "bad" for v in lines)
    assert "1 alarm<" in report.render(built)


def test_the_terminal_table_is_rectangular_and_leaves_out_who_was_not_there(built):
    table = report.table_for_terminal(built, "S0")
    assert {len(row) for row in table} == {len(table[0])}
    assert [row[0] for row in table[1:]] == ["prior", "activity", "last_move", "linear", "transformer", "ensemble"]
    linear = next(row for row in table if row[0] == "linear")
    assert linear[1] == f"{built['symbols']['S0']['linear']['r2']['value']:.4f}"


def test_a_run_without_any_model_still_has_a_page():
    built = metrics.build([with_forecasts(honest(rows=120), {})], draws=50)
    assert "No model forecasts the move" in report.render(built, [honest(rows=120)])


def test_half_hours_are_in_the_market_zone_and_in_its_order(data):
    labels, values, errors = metrics.by_half_hour(data[0], "linear", "America/New_York")
    assert labels == ["17:00", "17:30"] and len(values) == len(errors) == 2
    assert data[0].as_of[0] // SECOND % 86_400 == 22 * 3600 + 14 * 60
    evening = metrics.by_half_hour(replace(data[0], as_of=data[0].as_of + 6300 * SECOND), "linear")[0]
    assert evening == ["23:30", "00:00", "00:30"]
    assert metrics.by_half_hour(data[0], "prior")[0] == []


def test_drawings_keep_their_ids_apart():
    one, two = (plots.learning_curves(name, {"train": [1.0, 0.5]}) for name in ("a", "b"))
    assert one != two and one.replace('"a-', '"b-').replace("#a-", "#b-").replace('name="a"', 'name="b"') == two


def test_every_figure_is_a_file_of_its_own_too(page):
    from xml.etree import ElementTree

    found = report.drawings(page)
    assert len(found) == page.count('class="plot"') > 8
    for svg in found.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "--s0:" in svg


def test_the_verdict_and_its_reasons_stand_before_every_figure(page, built):
    first = page.index("Held")
    assert first < page.index("R² gain in [−0.0100, +0.0020] over the champion") < page.index('class="cards"')
    assert "no &lt;certificate&gt;" in page and 'class="verdict bad"' in page
    promoted = report.render(built, card={"verdict": "promoted", "reasons": ["R2 gain in [0.0010, 0.0020]"]})
    assert 'class="verdict good"' in promoted and ">Promoted<" in promoted
    assert 'class="verdict' not in report.render(built)


def test_a_page_takes_its_verdict_once_the_gate_has_spoken(built):
    card = {"verdict": "promoted", "reasons": ["R2 gain in [0.0010, 0.0020]"]}
    bare = report.render(built)
    told = report.with_card(bare, card)
    assert told == report.render(built, card=card) and Outline(told).open == []
    with pytest.raises(DataError, match="no place for a verdict"):
        report.with_card(told, card)


def test_every_clause_is_there_kept_or_not(built):
    clauses = {"rows": True, "nulls": True, "certificate": False, "an <unknown>": True}
    who = {"challenger": {"model": "ensemble", "release": "ab" * 32}, "champion": {"model": "linear", "release": None}}
    card = {"verdict": "held", "reasons": ["no certificate: `cift certify`"], "clauses": clauses, "nulls": {"n": 200, "promoted": 1}, **who}
    page = report.render(built, card=card)
    top = page[page.index('<section class="verdict') : page.index('<div class="cards">')]
    assert "3 of 4 clauses kept" in top and top.count('<li class="kept">') == 3 and top.count('<li class="failed">') == 1
    assert re.search(r'<li class="failed"><span class="bad"[^>]*>✗</span><b>certificate</b>', top) and "an &lt;unknown&gt;" in top
    assert "better on 1 of 200 labels without direction" in top and "<code>cift certify</code>" in top
    assert "ensemble of release abababababab against linear of its own run" in top and Outline(page).open == []


def test_every_clause_of_the_gate_has_its_words():
    from cift_models.evaluation import gate

    stated = re.findall(r"^    (\w+) {2,}\w", gate.__doc__ or "", re.MULTILINE)
    assert list(report._ASKED) == stated


def test_chances_that_fail_say_how(built):
    told = copy.deepcopy(built)
    one = told["calibration"]["S0"]["ensemble"]
    for slope, word in (((1.07, 1.5), "too shy"), ((0.5, 0.9), "too sure"), ((0.9, 1.2), "ECE too great")):
        one |= {"passes": False, "slope": {"value": sum(slope) / 2, "lo": slope[0], "hi": slope[1]}}
        (line,) = [v for v in report.verdicts(told) if v.symbol == "S0" and "alibrat" in v.text]
        assert line.tone == "bad" and word in line.text


def test_a_model_that_never_trades_says_so():
    data = honest(2, b=0.3)
    shy = replace(data.forecasts["ensemble"], rule=SignalRule(threshold_bps=1e6))
    data = with_forecasts(data, {"linear": data.forecasts["linear"], "ensemble": shy})
    built = metrics.build([data], draws=50)
    assert any(v.text.startswith("It takes no liquidity") and v.tone == "neutral" for v in report.verdicts(built))
    assert "Taking liquidity" not in report.render(built, [data])


def test_a_gain_is_in_points_of_the_figure_above_it(built):
    gain = built["paired"]["S0"]["ensemble"]["r2_gain"]
    (line,) = [v.text for v in report.verdicts(built) if v.symbol == "S0" and "points of R²" in v.text]
    assert f"{100 * gain['value']:+.2f} points of R² (95 %: {100 * gain['lo']:+.2f} to".replace("-", "−") in line


def test_a_value_of_one_block_is_hollow():
    def full(error):
        svg = plots.r2_by_part("p", ["a", "b"], {"m": (np.array([0.01, 0.02]), np.array([0.01, error]))})
        return len(re.findall(r'<use [^>]*style="fill: var\(--s0\)', svg))

    # The legend's dot is one of them.
    assert full(0.0) == full(np.nan) == full(0.01) - 1 == 2


def test_what_curves_share_names_the_axis():
    assert plots._shared_part(["AAPL_stop_rmse_bps", "AMZN_stop_rmse_bps"]) == ("stop rmse bps", ["AAPL", "AMZN"])
    assert plots._shared_part(["nats_per_event_A", "nats_per_event_B"]) == ("nats per event", ["A", "B"])
    assert plots._shared_part(["train", "valid"]) == ("", ["train", "valid"])
    assert plots._shared_part(["objective"]) == ("objective", ["objective"])
    assert plots._shared_part(["loss", "loss_smooth"]) == ("", ["loss", "loss smooth"])
    many = plots.learning_curves("many", {f"S{i}_rmse": [2.0, 1.0, 0.5] for i in range(8)})
    assert all(f">S{i}</text>" in many for i in range(8)) and "stroke-dasharray" in many


def test_skill_by_regime_is_that_of_its_rows(data):
    early = np.arange(2400) < 900
    p = np.column_stack([early, ~early]).astype(float)
    labels, value, error = metrics.by_regime(data[0], "ensemble", data[0].as_of, p, ("calm", "wild"))
    mean, ready = data[0].forecasts["ensemble"].mean_bps, data[0].forecasts["ensemble"].ready
    assert labels == ["calm, 870 rows", "wild, 1,500 rows"] and (error > 0).all()
    assert value == pytest.approx([scores.r2(data[0].y[r], mean[r]) for r in (early & ready, ~early & ready)])
    twins, _, _ = metrics.by_regime(data[0], "ensemble", data[0].as_of, p, ("quiet", "quiet"))
    assert twins == ["quiet 1, 870 rows", "quiet 2, 1,500 rows"]
    assert metrics.told_apart(["quiet", "wild", "quiet"]) == ["quiet 1", "wild", "quiet 2"]
    unknown = metrics.by_regime(data[0], "ensemble", data[0].as_of[::2], np.zeros((1200, 2)), ("calm", "wild"))
    assert unknown[0] == []


def test_the_calendar_names_every_block_and_what_it_was_for(page):
    assert all(f"<b>b{k}</b>" in page for k in range(10))
    assert page.count('<div class="test"><b>b') == 3 and page.count('<div class="stop"><b>b6') == 1


def test_what_a_model_adds_is_said_with_what_it_is_added_to(data):
    y = data[0].y
    past = {"linear": data[0].forecasts["linear"].mean_bps, "transformer": data[0].forecasts["transformer"].mean_bps}
    stack = Stack({d.symbol: OutOfFold(y, past) for d in data}, {"linear": Cost(0.004, 1.5)}, {}, {})
    built = metrics.build(data, draws=100, stack=stack)
    page = report.render(built)
    assert (
        "Which models are credited" in page
        and page.count('<td class="said">') == 3
        and set(built["switches"]) == {"linear", "hmm", "transformer"}
    )
    assert all(f'<td class="said">{escape(one["reason"].split(": ")[0])}</td>' in page for one in built["switches"].values())
    gain = built["marginal"]["S0"]["linear"]["r2_gain"]
    tone = "good" if gain["lo"] > 0 else "bad"
    assert (gain["lo"] > 0 or gain["hi"] < 0) and f'<span class="{tone}">{gain["lo"]:+.4f} … {gain["hi"]:+.4f}</span>'.replace(
        "-", "−"
    ) in page
    assert "What each model adds to the stack, and costs" in page and "<small>to no forecast</small>" in page
    assert "<td>0.004</td><td>1.50</td>" in page and Outline(page).open == []


def test_the_best_minutes_and_the_half_life_are_among_the_verdicts(built):
    texts = [v.text for v in report.verdicts(built) if v.symbol == "S0"]
    assert any(text.startswith("Its best five minutes are") for text in texts)
    assert "Half is gone at 100 ms, the first delay, already." in texts
    told = copy.deepcopy(built)
    told["half_life_ms"]["S0"]["ensemble"] = {"value": 310.0, "lo": 200.0, "hi": 480.0}
    assert "Half of it is gone after 310 ms (95 %: 200 to 480)." in [v.text for v in report.verdicts(told)]


def test_a_model_that_lives_on_the_round_second_is_bad_news(built):
    def told(lo, hi, text):
        row = {"round_second": {"value": (lo + hi) / 2, "lo": lo, "hi": hi}, "text": text}
        return report.render(built, offsets={"S0": {"ridge_reference": row, "linear": row}})

    bad = told(0.01, 0.02, "better on the round second than elsewhere: R2 there less the mean of the other offsets in [+0.0100, +0.0200]")
    assert '<li class="bad">linear: better on the round second than elsewhere: R² there' in bad
    assert '<li class="good">linear: does not live' in told(-0.01, 0.02, "does not live on the round second: x")
    assert "round second" not in report.render(built)


def test_what_rounds_to_nothing_has_no_sign():
    assert [report._number(v, 4) for v in (-0.00001, -0.0, -0.0001, None)] == ["0.0000", "0.0000", "−0.0001", "–"]


def test_a_kernel_that_dies_does_not_squeeze_the_others():
    lag = np.geomspace(1e-3, 60, 40)
    svg = plots.kernel_curves("k", lag, {"slow": 10 / (1 + lag), "gone": 10 * np.exp(-lag)})
    powers = [int(power) for power in re.findall(r"10\^\{(-?\d+)\}", svg)]
    assert len(powers) > 5 and min(powers) >= -6
