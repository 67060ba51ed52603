"""``serve``: a page on this machine that projects while knobs are turned. Needs Starlette and uvicorn."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock, Thread
from time import perf_counter
from typing import Any

from vtrain_sim.api.knobs import knobs_document, turn, turn_passes
from vtrain_sim.errors import UserError
from vtrain_sim.report.page import served
from vtrain_sim.results import Document
from vtrain_sim.schedules.compiled import PLAIN_CALLS

LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost", "[::1]")
_MISSING = "serve needs Starlette and uvicorn: pip install 'vtrain[serve]'"
# Projections share what they have estimated.
_one_at_a_time = Lock()
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def listen(port: int) -> socket.socket:
    """A socket on the loopback, which no other machine reaches. port 0: any free one. Raises `UserError`."""
    place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((LOOPBACK, port))
        # From now on requests wait until they are answered.
        place.listen()
    except (OSError, OverflowError) as error:
        place.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot listen on port {port}: {reason}; --port says another one") from None
    return place


def server(place: socket.socket) -> Callable[[], None]:
    """What answers on a socket of `listen` until it is interrupted. Raises `UserError` where a library is missing."""
    try:
        import uvicorn
    except ImportError:
        raise UserError(_MISSING) from None
    port = int(place.getsockname()[1])
    config = uvicorn.Config(application(port), log_level="warning", access_log=False, lifespan="off")
    Thread(target=_warm, daemon=True).start()
    return partial(uvicorn.Server(config).run, sockets=[place])


def _warm() -> None:
    """Load, before the first knob is turned, what would make its answer late."""
    with _one_at_a_time:
        for _ in range(PLAIN_CALLS + 1):
            turn({})


def application(port: int) -> Any:
    """The ASGI application. It writes nothing, and answers only what calls it by a name of this machine.

    port: that requests name in their Host header, so that no page of another site reaches it by a name of its own
    (DNS rebinding). Raises `UserError` where Starlette is missing.
    """
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise UserError(_MISSING) from None
    html, policy = served()

    def index(request: Request) -> Response:
        return HTMLResponse(html, headers={**_HEADERS, "Content-Security-Policy": policy})

    def all_knobs(request: Request) -> Response:
        return _json(Response, knobs_document())

    def answering(answer: Callable[[Mapping[str, str]], Document]) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            with _one_at_a_time:
                return _json(Response, _answer(answer, dict(request.query_params)))

        return respond

    routes = [
        Route("/", index),
        Route("/knobs", all_knobs),
        Route("/project", answering(turn)),
        Route("/passes", answering(turn_passes)),
    ]
    inner = Starlette(routes=routes)
    hosts = {f"{name}:{port}" for name in _NAMES}

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        headers = {name.lower(): value.decode("latin-1").lower() for name, value in scope.get("headers", ())}
        foreign = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
        if scope["type"] == "http" and (headers.get(b"host") not in hosts or foreign):
            refusal = PlainTextResponse("this page is for the machine that it runs on", 403, headers=_HEADERS)
            await refusal(scope, receive, send)
            return
        await inner(scope, receive, send)

    return guarded


def _answer(answer: Callable[[Mapping[str, str]], Document], values: Mapping[str, str]) -> Document:
    """The answer with the seconds that it took, or the sentence that the command would give."""
    begin = perf_counter()
    try:
        return {**answer(values), "elapsed_s": perf_counter() - begin}
    except UserError as error:
        return {"error": str(error)}


def _json(response: Callable[..., Any], value: Document) -> Any:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return response(text, media_type="application/json", headers=_HEADERS)
