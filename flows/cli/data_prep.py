"""`cift data-prep`"""

from __future__ import annotations

from flows.cli.options import Again, End, Start, Symbols, TestFrom


def data_prep(symbols: Symbols, start: Start, end: End, test_from: TestFrom = None, again: Again = False) -> None:
    """Build features and labels of stored sessions, and fit nothing. `cift train` does this by itself.

    Example: cift data-prep --symbols AAPL,AMZN,GOOG --start 2012-06-21 --end 2012-06-21
    """
    from flows.cli.options import day, parameters, split
    from flows.cli.stored import refuse_absent
    from flows.cli.terminal import watching
    from flows.parameters import DataPrepParameters

    params = parameters(
        DataPrepParameters,
        symbols=split(symbols),
        start=day(start, "--start"),
        end=day(end, "--end"),
        test_from=day(test_from, "--test-from") if test_from else None,
        again=again,
    )
    refuse_absent(params.symbols, params.start, params.end)
    with watching("Features and labels"):
        from flows.data_prep import data_prep as flow

        built = flow(params)
    for session, ref in built.items():
        print(f"{session}: {ref.facts['events']:,} events, {ref.facts['instants']:,} instants, {ref.facts['valid']:.1%} of rows valid")
