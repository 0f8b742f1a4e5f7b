"""The sockets: WebSocket messages in, decisions and acknowledgements out; and the GET routes beside them."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from cift_models.errors import CiftError
from serving import measure, wire

if TYPE_CHECKING:
    from serving.live import Live
    from serving.mirror import Mirror


def json_response(value: object, status: int = 200) -> Response:
    """orjson writes floats that read back to the same bits."""
    return Response(orjson.dumps(value), status, media_type="application/json")


async def ticks(socket: WebSocket, live: Live, mirror: Mirror, turn: asyncio.Lock) -> None:
    """Serve one connection until it closes. A message that cannot be taken is answered by an error and changes nothing.

    Messages are taken one at a time: `turn` is held from a message's first step to its last, over all connections.
    """
    await socket.accept()
    try:
        while True:
            received = await socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            raw = received.get("bytes") or received.get("text") or ""
            try:
                message = wire.read(raw, live.speaker.pipeline.universe)
                async with turn:
                    await _take(socket, live, mirror, message)
            except CiftError as error:
                measure.REFUSED.inc()
                await socket.send_bytes(wire.refusal(raw, error))
    except (WebSocketDisconnect, RuntimeError):
        # Starlette says RuntimeError for a send after the peer has gone.
        return


async def _take(socket: WebSocket, live: Live, mirror: Mirror, message: wire.Message) -> None:
    """Let the live state take a message, and send what it says. A peer that goes in mid-message does not stop the message."""
    gone = None
    events, late, instants = live.events, live.late, live.instants
    steps = live.take(message)
    while True:
        began = time.perf_counter()
        said = next(steps, None)
        if said is None:
            break
        measure.STEP.observe(time.perf_counter() - began)
        for raw in said:
            if gone is None:
                try:
                    await socket.send_bytes(raw)
                except (WebSocketDisconnect, RuntimeError) as error:
                    gone = error
        # Bento's probes and a swap get their turn between two steps, whether or not a send had to wait.
        await asyncio.sleep(0)
    if live.instants > instants:
        mirror.offer(live.latest, live.speaker.standing.sequence)
        measure.INSTANTS.inc(live.instants - instants)
    measure.EVENTS.inc(live.events - events)
    measure.LATE.inc(live.late - late)
    measure.WATERMARK.set(live.engine.watermark / 1e9)
    measure.MIRROR_FAILED.set(mirror.failed)
    if gone is not None:
        raise gone


async def prediction(request: Request, live: Live) -> Response:
    """GET /prediction/{symbol}: the live row."""
    symbol = request.path_params["symbol"]
    if symbol not in live.speaker.pipeline.universe.symbols:
        known = ", ".join(live.speaker.pipeline.universe.symbols)
        return json_response({"error": f"Unknown symbol {symbol[:60]!r}. This release knows {known}."}, 404)
    row = live.latest.get(symbol)
    return json_response(row) if row else json_response({"error": f"Nothing has been decided for {symbol} yet."}, 503)


async def model(request: Request, live: Live) -> Response:
    """GET /model: the release that speaks, and where it stands."""
    speaker, engine = live.speaker, live.engine
    return json_response(
        {
            "release": speaker.standing.release,
            "held": speaker.standing.held,
            "sequence": speaker.standing.sequence,
            "max_train_t1": speaker.standing.max_train_t1,
            "models": {kind: {"needs": list(m.needs), "outputs": list(m.outputs)} for kind, m in speaker.pipeline.models.items()},
            "symbols": list(speaker.pipeline.universe.symbols),
            "feature_hash": speaker.pipeline.features.schema_hash,
            "decides": speaker.pipeline.decides,
            "rule": speaker.pipeline.rule.model_dump(mode="json"),
            "session": None if engine.session is None else engine.session.day,
            "watermark": engine.watermark,
            "decided": engine.decided,
            "late": live.late,
            "pid": os.getpid(),
        }
    )
