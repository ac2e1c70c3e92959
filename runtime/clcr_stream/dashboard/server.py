"""The dashboard's web server on 127.0.0.1: its page, its WebSocket and the export; a thread of its own.

starlette routes, uvicorn serves; both are of the extra `view` and are imported when a Dashboard is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.resources
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from clcr_stream.dashboard.guard import Guard
from clcr_stream.dashboard.hub import Client, Hub
from clcr_stream.errors import PublishError
from clcr_stream.wire.watcher import Watcher

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.websockets import WebSocket

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_MAX_UPSTREAM_BYTES = 4096  # what a page asks is a stream's name
_CLOSE_S = 2


def page_files() -> dict[str, tuple[str, bytes]]:
    """The page's files by path, with their types: read once, and nothing else can be asked for."""
    found = {}
    for entry in importlib.resources.files("clcr_stream.dashboard").joinpath("page").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if entry.is_file() and suffix in _TYPES:
            path = "/" if entry.name == "index.html" else f"/{entry.name}"
            found[path] = (_TYPES[suffix], entry.read_bytes())
    return found


class Guarded:
    """Refuses what the guard refuses, and gives every answer its headers."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard
        self._headers = [(name.encode(), value.encode()) for name, value in guard.headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        reason = self._guard.refused(headers)
        if scope["type"] == "websocket":
            if reason is None and self._guard.query(scope["query_string"]):
                await self._app(scope, receive, send)
            else:  # before it is accepted: the browser gets a 403
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        if reason is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await _plain(send_with_headers, 403, reason)


async def _plain(send: Callable[[Any], Any], status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers by name in lower case; one that comes twice is joined, and then fits nothing."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def application(watcher: Watcher, guard: Guard, failed: Callable[[BaseException], object]) -> Guarded:
    """The web application: `/` and its files for everybody here, /socket and /export.csv with the token.

    `failed` is told what ended the reading of the streams.
    """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute

    hub = Hub(watcher)
    files = page_files()

    async def file(request: Request) -> Response:
        kind, data = files[request.url.path]
        return Response(data, media_type=kind)

    async def export(request: Request) -> Response:
        if not guard.bearer(headers_of(request.scope)):
            return PlainTextResponse("no token, or not ours\n", status_code=401)
        query = request.query_params
        try:
            first_ms, last_ms = int(query["from_ms"]), int(query["to_ms"])
        except (KeyError, ValueError):
            return PlainTextResponse("from_ms and to_ms must be whole numbers\n", status_code=400)
        table = hub.table(query.get("stream", ""), first_ms, last_ms)
        if table is None:
            return PlainTextResponse("no such stream\n", status_code=404)
        return Response(
            table, media_type="text/csv", headers={"content-disposition": 'attachment; filename="clcr.csv"'}
        )

    async def page(web: WebSocket) -> None:
        await serve_page(web, hub)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        reading = asyncio.create_task(hub.run())
        reading.add_done_callback(lambda task: None if task.cancelled() else failed(task.exception() or EOFError()))
        yield
        reading.cancel()

    routes = [Route(path, file, methods=["GET"]) for path in files]
    routes += [Route("/export.csv", export, methods=["GET"])]
    app = Starlette(routes=[*routes, WebSocketRoute("/socket", page)], lifespan=lifespan)
    return Guarded(app, guard)


async def serve_page(web: WebSocket, hub: Hub) -> None:
    """One page until it goes: what it asks, and what it is told, side by side."""
    await web.accept()
    client = Client()
    if not hub.add(client):
        await web.close(1013, "too many pages")
        return
    telling = asyncio.create_task(_tell(web, client))
    try:
        while (text := await _asked(web)) is not None:
            name = _stream_in(text)
            if name is None or not hub.watch(client, name):
                await web.close(1008, "not understood")
                return
    finally:
        hub.remove(client)
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await telling


async def _asked(web: WebSocket) -> str | None:
    """What a page sends next; None when it has gone."""
    message = await web.receive()
    if message["type"] != "websocket.receive":
        return None
    return message.get("text") or ""


def _stream_in(text: str) -> str | None:
    """The stream that a page wants to see: {"watch": NAME}."""
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = asked.get("watch") if isinstance(asked, dict) else None
    return name if isinstance(name, str) else None


async def _tell(web: WebSocket, client: Client) -> None:
    """Send what is queued, in its order; waits while the browser is slow."""
    while True:
        payload = await client.next()
        await web.send_text(payload.decode())
        if client.missed:
            missed, client.missed = client.missed, 0
            await web.send_text(json.dumps({"type": "missed", "updates": missed}))


class Dashboard:
    """The server as long as it runs, on a thread; a context manager. PublishError when the port cannot be had."""

    def __init__(self, watcher: Watcher, port: int = 0, token: str | None = None) -> None:
        import uvicorn

        self._socket = _bound(port)
        number = self._socket.getsockname()[1]
        self.guard = Guard(number) if token is None else Guard(number, token)
        self.failure: BaseException | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(watcher, self.guard, self._failed),
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="websockets-sansio",
                ws_max_size=_MAX_UPSTREAM_BYTES,
                ws_per_message_deflate=False,
                limit_concurrency=128,
                h11_max_incomplete_event_size=16384,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_CLOSE_S,
            )
        )
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clcr-view", daemon=True)

    @property
    def url(self) -> str:
        """What a person opens."""
        return self.guard.url

    def __enter__(self) -> Dashboard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(2 * _CLOSE_S)
        self._socket.close()

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        self._server.should_exit = True

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:  # the thread's edge: told by who waits for `ended`
            self.failure = error
        finally:
            self.ended.set()


def _bound(port: int) -> socket.socket:
    """A socket on 127.0.0.1, never on another address."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen(128)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise PublishError(f"--port {port}: in use by another program; pass another one, or 0 for any") from None
        raise PublishError(f"--port {port}: {error.strerror}; pass another one, or 0 for any") from None
    return found
