"""The commands of `cift`, in the order in which a newcomer meets them."""

from __future__ import annotations

import typer

from flows.cli import (
    audit,
    backfill,
    bars,
    certify,
    clean,
    data_prep,
    demo,
    doctor,
    evaluate,
    feed,
    gate,
    ingest,
    migrate,
    predict,
    promote,
    quality,
    record,
    replay,
    rollback,
    seed,
    serve,
    sql,
    status,
    train,
)

app = typer.Typer(
    name="cift",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train, judge, release and serve models on order-book data.\n\n"
    "A first look: cift demo. A recorded day: cift ingest lobster FILE..., then cift train --symbols AAPL --start 2012-06-21 "
    "--end 2012-06-21, then cift serve --release challenger. Everything lies below CIFT_HOME (default .cift).",
)
app.command("demo")(demo.demo)
app.command("seed")(seed.seed)
app.command("ingest")(ingest.ingest)
app.command("backfill")(backfill.backfill)
app.command("quality")(quality.quality)
app.command("bars")(bars.bars)
app.command("data-prep")(data_prep.data_prep)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("gate")(gate.gate)
app.command("certify")(certify.certify)
app.command("audit")(audit.audit)
app.command("predict")(predict.predict)
app.command("promote")(promote.promote)
app.command("rollback")(rollback.rollback)
app.command("serve")(serve.serve)
app.command("replay")(replay.replay)
app.command("record")(record.record)
app.command("feed")(feed.feed)
app.command("status")(status.status)
app.command("sql")(sql.sql)
app.command("migrate")(migrate.migrate)
app.command("doctor")(doctor.doctor)
app.command("clean")(clean.clean)
