"""`cift predict`"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import End, Json, Start


def predict(
    start: Start,
    end: End,
    release: Annotated[str, typer.Option(help="champion, challenger, or the first digits of a release.")] = "champion",
    symbols: Annotated[
        str | None, typer.Option(help="Whose rows to keep, with commas between. Default: all that the release knows.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a release over stored sessions; write its predictions.

    Rows that the release learned from are left out. The rows lie in ClickHouse where CIFT_CLICKHOUSE_URL names one
    (table predictions), otherwise below CIFT_HOME/predictions/RELEASE-SESSION/MODEL.

    Example: cift predict --release challenger --start 2024-01-09 --end 2024-01-09
    """
    from flows.cli.options import day, parameters, split
    from flows.cli.terminal import watching
    from flows.parameters import PredictParameters

    params = parameters(
        PredictParameters,
        release=release,
        symbols=split(symbols) if symbols else [],
        start=day(start, "--start"),
        end=day(end, "--end"),
    )
    with watching(f"Predicting {start} .. {end} with {release}"):
        from flows.predict import predict as flow

        sessions = flow(params)
    if json:
        import orjson

        print(orjson.dumps(sessions, option=orjson.OPT_INDENT_2).decode())
        return
    from cift_models.settings import get_settings
    from flows.cli.stored import rows_place

    settings = get_settings()
    for one in sessions:
        left_out = f"{one['in_sample']:,} of them in sample and left out"
        print(f"{one['day']}: {one['instants']:,} instants, {left_out}; {one['rows']:,} rows written.")
        if not one["rows"]:
            continue
        for symbol, said in one["symbols"].items():
            size = "no forecast" if said["mean_abs_bps"] is None else f"mean |forecast| {said['mean_abs_bps']:.4f} bps"
            print(f"  {symbol}: {one['decides']} ready at {said['ready']:,} instants, {size}; "
                  f"{said['buy']:,} Buy, {said['sell']:,} Sell, {said['hold']:,} Hold")  # fmt: skip
        for key in one["keys"]:
            print(f"  {rows_place(settings, key)}")
