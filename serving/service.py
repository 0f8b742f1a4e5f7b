"""The Bento: one service, one worker, one live state.

    WebSocket /ticks            events in, decisions out (serving/wire.py)
    GET  /prediction/{symbol}   the live row
    GET  /model                 the release that speaks, and where it stands
    POST /predict               canonical events in, decisions out, from the session's open; never touches the live state
    GET  /healthz /livez /readyz /metrics

Which release: CIFT_RELEASE, "champion" by default: it follows what is served (stores/releases.py) without a restart.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from typing import Any, cast

import bentoml
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from cift_models.errors import CiftError, NotStored
from cift_models.settings import get_settings
from cift_models.stores.online import open_online
from cift_models.stores.releases import Releases
from serving import measure, stream, wire
from serving.journal import Journal
from serving.live import CatchUp, Live, Speaker, predict
from serving.mirror import Mirror

POLL_S = 1.0
"""How often what is served is looked up."""

BEHIND_BYTES = 256 * 1024
"""A new engine takes over when less than this of the journal is left to fold: some thousand events, a few milliseconds."""

log = logging.getLogger("cift.serving")


class Span(BaseModel):
    """A session: its date and its first and last nanosecond."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    day: int = Field(description="yyyymmdd, the venue's date")
    open: int = Field(description="ns UTC")
    close: int = Field(description="ns UTC")


class PredictRequest(BaseModel):
    """Events of a session from its open on, in order, as on the wire."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    session: Span
    events: list[dict[str, Any]] = Field(max_length=wire.MAX_EVENTS, description="Canonical events: see the WebSocket's.")
    until: int = Field(description="ns UTC: decide the instants up to here")
    instants: int = Field(1, ge=1, le=600, description="How many of the last instants to return")


async def _ticks(socket: WebSocket) -> None:
    service = bentoml.get_current_service()
    await stream.ticks(socket, service.live, service.mirror, service.turn)


async def _prediction(request: Request) -> Response:
    return await stream.prediction(request, bentoml.get_current_service().live)


async def _model(request: Request) -> Response:
    return await stream.model(request, bentoml.get_current_service().live)


class Bodies:
    """Refuses a POST that is too large before it is read into memory, and one that is not JSON (Bento also reads forms and pickles)."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if not declared.isdigit():
            await _refuse(411, "Expected a content-length.")(scope, receive, send)
        elif int(declared) > self.limit:
            await _refuse(413, f"A body of {int(declared):,} bytes. Expected at most {self.limit:,}.")(scope, receive, send)
        elif kind != b"application/json":
            await _refuse(415, "Expected the content-type application/json.")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _refuse(status: int, text: str) -> Response:
    response = stream.json_response({"error": text}, status)
    # The body is not read: the connection cannot carry another request.
    response.headers["connection"] = "close"
    return response


routes = Starlette(routes=[WebSocketRoute("/ticks", _ticks), Route("/prediction/{symbol}", _prediction), Route("/model", _model)])


@bentoml.asgi_app(routes, path="/")
@bentoml.service(name="cift", workers=1, traffic={"timeout": 30, "max_concurrency": 64}, logging={"access": {"enabled": False}})
class Cift:
    """Streams decisions on order-book events."""

    def __init__(self) -> None:
        settings = get_settings()
        self.releases = Releases(settings.home)
        self.asked = settings.release
        speaker = self._find()
        self.mirror = Mirror(open_online(settings))
        self.live = Live(speaker, Journal(settings.home / "journal" / f"{settings.service_port}.bin", speaker.pipeline.universe))
        self.turn = asyncio.Lock()
        self._tasks: list[asyncio.Task] = []
        held = " (HELD: every action is Hold)" if speaker.standing.held else ""
        log.info("serving %s%s, %d instants of the session folded", speaker.standing.release[:12], held, self.live.engine.decided)

    def _find(self) -> Speaker:
        """The release that was asked for; any other than the champion is held."""
        if self.asked != "champion":
            return Speaker.load(self.releases.directory(self.releases.resolve(self.asked)), held=True)
        served = self.releases.served()
        if served is None:
            raise NotStored(
                "No champion is served yet.", hint="`cift promote RELEASE` makes one; `cift serve --release challenger` tries one."
            )
        return Speaker.load(self.releases.directory(served.release), False, served.sequence)

    @bentoml.on_startup
    async def begin(self) -> None:
        # The collector's long pauses would stand in the way of ticks: what is loaded now stays for ever.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 1_000)
        self._tasks.append(asyncio.create_task(self._leave_with_supervisor(os.getppid())))
        if self.asked == "champion":
            self._tasks.append(asyncio.create_task(self._watch()))

    @bentoml.on_shutdown
    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.mirror.close()
        self.live.journal.close()

    async def __is_ready__(self) -> bool:
        return self.live.broken is None

    async def _leave_with_supervisor(self, parent: int) -> None:
        """Bento's worker outlives a supervisor that is killed, and would keep port and journal from the next service."""
        while os.getppid() == parent:
            await asyncio.sleep(POLL_S / 2)
        log.error("the supervisor is gone: leaving; what was acknowledged stands in the journal")
        os._exit(1)

    async def _watch(self) -> None:
        """Follow what is served. A release that cannot be taken is said once; the old one goes on, and the next move is tried."""
        seen = self.live.speaker.standing.sequence
        while True:
            await asyncio.sleep(POLL_S)
            try:
                served = self.releases.served()
                if served is None or served.sequence == seen:
                    continue
                seen = served.sequence
                await self._take_over(await asyncio.to_thread(Speaker.load, self.releases.directory(served.release), False, seen))
                measure.SWAPS.inc()
                log.info("now serving %s", served.release[:12])
            except Exception as error:  # the watcher outlives whatever a release does
                measure.SWAP_FAILURES.inc()
                log.error("what is served moved, and cannot be followed: %s", error, exc_info=not isinstance(error, CiftError))

    async def _take_over(self, speaker: Speaker) -> None:
        """Catch up beside the live engine, in a thread, then take over between two instants."""
        while True:
            new = CatchUp(self.live, speaker)
            await asyncio.to_thread(new.go)
            while new.behind > BEHIND_BYTES and new.generation == self.live.journal.generation:
                await asyncio.to_thread(new.go)
            if self.live.swap(new):
                return

    @bentoml.api(route="/predict")
    async def predict(self, request: PredictRequest, /) -> list[dict[str, Any]]:
        try:
            speaker = self.live.speaker
            session = wire.read_session(request.session.day, request.session.open, request.session.close)
            events = wire.read_events(request.events, speaker.pipeline.universe)
            return await asyncio.to_thread(predict, speaker, session, events, request.until, request.instants)
        except CiftError as error:
            # Bento's own answer to an InvalidArgument is a list, and a traceback in the log.
            return cast(Any, stream.json_response({"error": " ".join(str(error).split("\n"))}, 400))


Cift.add_asgi_middleware(cast(Any, Bodies), limit=wire.MAX_MESSAGE_BYTES)
