"""`cift gate`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Json

if TYPE_CHECKING:
    from cift_models.evaluation.card import Card, Figure


def gate(
    run: Annotated[int | None, typer.Argument(min=1, help="Number of a run, as `cift status` says it. Default: the last.")] = None,
    json: Json = False,
) -> None:
    """Show whether a run's release may be served, and why.

    Promoted or held: the release against what is served now, or against linear of its own run where nothing is, on the same test rows.
    Where the last verdict still stands it is shown; where what is served, the code or the certificate has changed, it is judged again.

    Exit 0 where it is promoted, 1 where it is held. Nothing is served by this command: cift promote does that.

    Example: cift gate --json | python -m json.tool
    """
    import sys

    from cift_models.settings import get_settings
    from cift_models.stores.releases import Releases
    from tasks.runs import find_run

    one = find_run(run)
    releases = Releases(get_settings().home)
    card = releases.verdict(one.release)
    if card is None or not _stands(card):
        from flows.cli.terminal import watching
        from flows.parameters import GateParameters

        with watching(f"Judging run {one.number}, release {one.release[:12]}"):
            from flows.gate import gate as flow

            flow(GateParameters(run=one.number))
        card = releases.verdict(one.release)
        assert card is not None
    if json:
        sys.stdout.buffer.write(card.to_bytes())
        sys.stdout.flush()
    else:
        _print(card, one.number)
    if card.verdict != "promoted":
        raise typer.Exit(1)


def _stands(card: Card) -> bool:
    from flows.settings import prepare

    prepare()
    from tasks.gate import stands

    return stands(card)


def _print(card: Card, number: int) -> None:
    from cift_models.evaluation.marginal import STACK
    from flows.cli.terminal import say

    rival = f"{card.champion.release[:12]}, which is served" if card.champion.release else f"{card.champion.model} of its own run"
    print(f"Run {number}, release {(card.challenger.release or '')[:12]} ({card.challenger.model}) against {rival}")
    print(f"{card.verdict.capitalize()}:")
    for reason in card.reasons:
        say(reason, 4, "  - ")
    kept = [name for name in card.clauses if name not in card.failed]
    nulls = f" Better on {card.nulls.promoted} of {card.nulls.n} labels without direction." if card.nulls else ""
    say(f"Clauses kept, {len(kept)} of {len(card.clauses)}: {', '.join(kept) or 'none'}.{nulls}", 2)
    print("Gains over the rival, 95 % intervals (R2; nats a move; bps a parent order):")
    for symbol, one in card.symbols.items():
        p = "unknown" if one.p_holm is None else f"{one.p_holm:.2g}"
        gains = f"R2 {_text(one.r2_gain)}, p {p}; direction {_text(one.direction_gain)}; timing {_text(one.timing_gain)}"
        say(gains, 27, f"  {symbol:<10} {one.rows:>7,} rows  ")
    if card.switches:
        say("Models of its stack, credited or not (a statement: what was judged is served as it is):", 2)
    for model in sorted(card.switches, key=lambda name: STACK.index(name) if name in STACK else len(STACK)):
        switch = card.switches[model]
        say(switch.reason, 19, f"  {model:<12} {switch.switch:<3} ")
    print(f"Size: {card.size.one_sided:.2%} one-sided, {card.size.over}.")
    if card.verdict == "promoted":
        print(f"Serve it: cift promote {(card.challenger.release or '')[:12]}")


def _text(figure: Figure) -> str:
    if figure.value is None:
        return f"none ({figure.reason})"
    return f"{figure.value:+.4f}" + ("" if figure.lo is None else f" [{figure.lo:+.4f}, {figure.hi:+.4f}]")
