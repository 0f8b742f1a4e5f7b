"""The Bento: one service, one worker, one live state.

    WebSocket /ticks            events in, decisions out (serving/wire.py)
    GET  /prediction/{symbol}   the live row
    GET  /model                 the release that speaks
    POST /predict               canonical events in, decisions out, from the session's open; never touches the live state
    GET  /healthz /livez /readyz /metrics

Which release: CIFT_RELEASE, "champion" by default: it follows what is served (stores/releases.py) without a restart.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from cift_models.errors import CiftError, NotStored
from cift_models.instruments import Session
from cift_models.settings import get_settings
from cift_models.stores.online import open_online
from cift_models.stores.releases import Releases
from serving import stream, wire
from serving.journal import Journal
from serving.live import Live, Speaker, predict
from serving.mirror import Mirror

POLL_S = 1.0
"""How often what is served is looked up."""

log = logging.getLogger("cift.serving")


class Span(BaseModel):
    """A session: its date and its first and last nanosecond."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    day: int = Field(description="yyyymmdd, the venue's date")
    open: int = Field(description="ns UTC")
    close: int = Field(description="ns UTC")


class PredictRequest(BaseModel):
    """Events of a session from its open on, in order, as on the wire."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    session: Span
    events: list[dict[str, Any]] = Field(max_length=wire.MAX_EVENTS, description="Canonical events: see the WebSocket's.")
    until: int = Field(description="ns UTC: decide the instants up to here")
    instants: int = Field(1, ge=1, le=600, description="How many of the last instants to return")


async def _ticks(socket: WebSocket) -> None:
    service = bentoml.get_current_service()
    await stream.ticks(socket, service.live, service.mirror)


async def _prediction(request: Request) -> Response:
    return await stream.prediction(request, bentoml.get_current_service().live)


async def _model(request: Request) -> Response:
    return await stream.model(request, bentoml.get_current_service().live)


class BodyLimit:
    """Refuses an HTTP body beyond the limit before it is read into memory."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), None)
        if scope["method"] == "POST" and (declared is None or not declared.isdigit() or int(declared) > self.limit):
            text = f"Expected a content-length of at most {self.limit:,} bytes."
            await stream.json_response({"error": text}, 413)(scope, receive, send)
            return
        await self.app(scope, receive, send)


routes = Starlette(routes=[WebSocketRoute("/ticks", _ticks), Route("/prediction/{symbol}", _prediction), Route("/model", _model)])


@bentoml.asgi_app(routes, path="/")
@bentoml.service(name="cift", workers=1, traffic={"timeout": 30, "max_concurrency": 64}, logging={"access": {"enabled": False}})
class Cift:
    """Streams decisions on order-book events."""

    def __init__(self) -> None:
        settings = get_settings()
        self.releases = Releases(settings.home)
        self.asked = settings.release
        directory, held, self.sequence = self._find()
        self.mirror = Mirror(open_online(settings))
        self.live = Live(Speaker.load(directory, held), Journal(settings.home / "journal" / f"{settings.service_port}.bin"))
        log.info("serving %s%s", directory.name[:12], " (HELD: every action is Hold)" if held else "")

    def _find(self) -> tuple[Path, bool, int]:
        """The release to serve, whether it is held, and the sequence of what is served (0 where a fixed one was asked for)."""
        if self.asked == "champion":
            served = self.releases.served()
            if served is None:
                raise NotStored(
                    "No champion is served yet.", hint="`cift promote RELEASE` makes one; `cift serve --release challenger` tries one."
                )
            return self.releases.directory(served.release), False, served.sequence
        return self.releases.directory(self.releases.resolve(self.asked)), True, 0

    @bentoml.on_startup
    async def begin(self) -> None:
        # The collector's long pauses would stand in the way of ticks: what is loaded now stays for ever.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 1_000)
        self._watcher = asyncio.create_task(self._watch()) if self.asked == "champion" else None

    @bentoml.on_shutdown
    async def end(self) -> None:
        if self._watcher:
            self._watcher.cancel()
        self.mirror.close()
        self.live.journal.close()

    async def __is_ready__(self) -> bool:
        return True

    async def _watch(self) -> None:
        """Follow what is served: load beside, catch up in a thread, take over between two instants."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                served = self.releases.served()
                if served is None or served.sequence == self.sequence:
                    continue
                speaker = await asyncio.to_thread(Speaker.load, self.releases.directory(served.release), False)
                engine, at = await asyncio.to_thread(self.live.catch_up, speaker)
                self.live.swap(speaker, engine, at)
                self.sequence = served.sequence
                log.info("now serving %s", served.release[:12])
            except CiftError as error:
                log.error("the release that is now served cannot be: %s", error)
                await asyncio.sleep(10 * POLL_S)

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> list[dict[str, Any]]:
        try:
            events = wire.read_events(request.events, self.live.speaker.pipeline.universe)
            session = Session(request.session.day, request.session.open, request.session.close)
            return await asyncio.to_thread(predict, self.live.speaker, session, events, request.until, request.instants)
        except CiftError as error:
            raise InvalidArgument(str(error)) from error


Cift.add_asgi_middleware(BodyLimit, limit=wire.MAX_MESSAGE_BYTES)
