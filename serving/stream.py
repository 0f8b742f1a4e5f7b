"""The sockets: WebSocket messages in, acknowledgements and decisions out; and the GET routes beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from cift_models.errors import CiftError
from serving import wire

if TYPE_CHECKING:
    from serving.live import Live
    from serving.mirror import Mirror


def json_response(value: object, status: int = 200) -> Response:
    """orjson writes floats that read back to the same bits."""
    return Response(orjson.dumps(value), status, media_type="application/json")


async def ticks(socket: WebSocket, live: Live, mirror: Mirror) -> None:
    """Serve one connection until it closes. A message that cannot be taken is answered by an error and changes nothing."""
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            raw = message.get("bytes") or message.get("text") or ""
            try:
                said = live.take(wire.read(raw, live.speaker.pipeline.universe))
            except CiftError as error:
                said = [orjson.dumps({"v": wire.VERSION, "error": str(error)})]
            for one in said:
                await socket.send_bytes(one)
            if len(said) > 1:
                mirror.offer(live.latest)
    except WebSocketDisconnect:
        return


async def prediction(request: Request, live: Live) -> Response:
    """GET /prediction/{symbol}: the live row."""
    symbol = request.path_params["symbol"]
    if symbol not in live.speaker.pipeline.universe.symbols:
        known = ", ".join(live.speaker.pipeline.universe.symbols)
        return json_response({"error": f"Unknown symbol {symbol!r}. This release knows {known}."}, 404)
    row = live.latest.get(symbol)
    return json_response(row) if row else json_response({"error": f"Nothing has been decided for {symbol} yet."}, 503)


async def model(request: Request, live: Live) -> Response:
    """GET /model: the release that speaks, and where it stands."""
    speaker, engine = live.speaker, live.engine
    return json_response(
        {
            "release": speaker.standing.release,
            "held": speaker.standing.held,
            "max_train_t1": speaker.standing.max_train_t1,
            "models": {kind: {"needs": list(m.needs), "outputs": list(m.outputs)} for kind, m in speaker.pipeline.models.items()},
            "symbols": list(speaker.pipeline.universe.symbols),
            "feature_hash": speaker.pipeline.features.schema_hash,
            "decides": speaker.pipeline.decides,
            "threshold": speaker.pipeline.rule.model_dump(mode="json"),
            "watermark": engine.watermark,
            "decided": engine.decided,
            "late": engine.late,
            "session": None if engine.session is None else engine.session.day,
        }
    )
