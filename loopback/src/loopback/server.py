"""The HTTP server: checks keys and sizes, and passes each request to the module that answers it."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from loopback import agents, lifecycle, search, stream
from loopback.common import Context
from loopback.graph import UnsupportedRequests, answer
from loopback.links import Links, proof, signature
from loopback.store import GoneError, NotFoundError, Store, disk_is_full, now

logger = logging.getLogger("loopback")

MEGABYTE = 2**20
MAX_BODY = 64 * MEGABYTE  # of a GraphQL request or a request of the file stream
MAX_UPLOAD = 20_000 * MEGABYTE  # of one file
THREADS = 8  # requests that are answered at the same time; the others wait
MAX_WAIT = 30.0  # seconds for the head of a request, and for each further piece of its body
MAX_ID_DIGITS = 18  # SQLite stores ids in 64 bits
SECONDS_ASLEEP = 10.0  # a pause of the server that is longer than this means the machine slept
AREAS = ("runs", "objects", "manifests")  # folders of the store that links lead to

Endpoint = Callable[[Request], Awaitable[Response]]


class TooLargeError(Exception):
    """A request's body is larger than the limit; the message says which."""


def key_of(request: Request) -> str | None:
    """The key that a request carries: `Authorization: Basic api:KEY` in base64, or `Bearer KEY`."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value).decode().partition(":")[2]
    return None


def has_key(request: Request) -> bool:
    """Whether a request carries the store's key."""
    key = key_of(request)
    return key is not None and hmac.compare_digest(
        key.encode(), request.app.state.store.key.encode()
    )


def is_allowed(request: Request) -> bool:
    """Whether a request carries the key, or this server's signature for its method and path."""
    if has_key(request):
        return True
    key = request.app.state.store.key
    method = "GET" if request.method == "HEAD" else request.method
    given = request.query_params.get("signature", "")
    return hmac.compare_digest(given.encode(), signature(key, method, request.url.path).encode())


async def bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body of a request in pieces.

    Raises:
        TooLargeError: the body has more than `limit` bytes, or announces more.
        TimeoutError: a piece did not arrive within MAX_WAIT seconds.
    """
    too_large = TooLargeError(f"the body is larger than {limit // MEGABYTE} MiB")
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    size, pieces = 0, aiter(request.stream())
    while True:
        async with asyncio.timeout(MAX_WAIT):
            piece = await anext(pieces, None)
        if piece is None:
            return
        size += len(piece)
        if size > limit:
            raise too_large
        yield piece


async def json_body(request: Request) -> dict[str, Any]:
    """The body of a request as a JSON object. Raises ValueError for anything else."""
    raw = b"".join([piece async for piece in bounded(request, MAX_BODY)])
    body = await run_in_threadpool(json.loads, raw)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def guarded(endpoint: Endpoint) -> Endpoint:
    """`endpoint` for requests that are allowed; its exceptions become a status and a message."""

    async def respond(request: Request) -> Response:
        if not is_allowed(request):
            message = "wrong or missing key: set WANDB_API_KEY to the text of the file `key`"
            return problem(401, f"{message} in the store")
        store: Store = request.app.state.store
        try:
            store.check_present()
            reply = await endpoint(request)
            store.check_present()  # do not acknowledge what was written into a deleted file
            return reply
        except Exception as error:
            status, message = _status(error)
            if status == 500:
                raise
            return problem(status, message)

    return respond


def _status(error: Exception) -> tuple[int, str]:
    """(status, message) for an exception of an endpoint; 500 for a bug of this server."""
    match error:
        case GoneError():
            return 503, str(error)
        case TooLargeError():
            return 413, str(error)
        case NotFoundError():
            return 404, str(error)
        case ValueError() | RecursionError():
            return 400, f"{type(error).__name__}: {error}"
        case ClientDisconnect():
            return 400, "the client closed the connection before its request was complete"
        case TimeoutError():
            return 408, f"the next piece of the request did not arrive within {MAX_WAIT:.0f} s"
        case IsADirectoryError() | NotADirectoryError() | FileExistsError():
            return 400, f"the name is taken: {error.strerror}"
        case OSError() | sqlite3.OperationalError() if disk_is_full(error):
            message = f"the disk of the store cannot be written: {error}"
            return 507, f"{message}; free space, the request can be repeated"
    return 500, ""


def problem(status: int, message: str) -> JSONResponse:
    """An error in the forms that W&B's clients and people can read."""
    message = message.encode(errors="replace").decode()  # it may quote half of a surrogate pair
    headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
    return JSONResponse({"error": message, "errors": [{"message": message}]}, status, headers)


async def graphql(request: Request) -> Response:
    """POST /graphql"""
    state, body = request.app.state, await json_body(request)
    links = Links(str(request.base_url).rstrip("/"), state.store.key)
    context = Context(state.store, state.search, links)
    status, reply = await run_in_threadpool(answer, context, state.unsupported, body)
    return JSONResponse(reply, status)


async def file_stream(request: Request) -> Response:
    """POST /files/{entity}/{project}/{run}/file_stream"""
    body, state, path = await json_body(request), request.app.state, request.path_params
    entity, project, run = path["entity"], path["project"], path["run"]
    receive = partial(stream.receive, state.store, state.search, entity, project, run, body)
    return JSONResponse(await run_in_threadpool(receive))


def storage_path(request: Request) -> Path:
    """The file of /storage/{area}/{name}. ValueError for a path that leads out of the store."""
    area, name = request.path_params["area"], request.path_params["name"]
    if area not in AREAS:
        raise NotFoundError(f"there is no storage area {area!r}")
    store: Store = request.app.state.store
    return store.inside(area, name)


def _run_file(request: Request) -> tuple[int, str] | None:
    """(run's row id, file name) of /storage/runs/NUMBER/NAME; None in other areas."""
    if request.path_params["area"] != "runs":
        return None
    run_id, _, name = request.path_params["name"].partition("/")
    if not name or not run_id.isdecimal() or len(run_id) > MAX_ID_DIGITS:
        raise ValueError("a file of a run is /storage/runs/NUMBER/NAME")
    return int(run_id), name


async def upload(request: Request) -> Response:
    """PUT /storage/{area}/{name}: the file appears complete or not at all."""
    path, run_file = storage_path(request), _run_file(request)
    store: Store = request.app.state.store
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = store.folder / "uploads" / secrets.token_hex(8)
    temporary.parent.mkdir(exist_ok=True)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with temporary.open("wb") as file:
            async for piece in bounded(request, MAX_UPLOAD):
                await run_in_threadpool(file.write, piece)
                digest.update(piece)
                size += len(piece)
        if request.path_params["area"] == "objects" and path.name != digest.hexdigest():
            raise ValueError("the bytes do not have the checksum under which they were announced")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if run_file:
        md5 = base64.b64encode(digest.digest()).decode()
        sql = """INSERT OR REPLACE INTO files (run_id, name, size, md5, updated_at)
            VALUES (?, ?, ?, ?, ?)"""
        await run_in_threadpool(store.write, sql, *run_file, size, md5, now())
    return Response(status_code=200)


async def download(request: Request) -> Response:
    """GET /storage/{area}/{name}"""
    path = storage_path(request)
    if not path.is_file():
        raise NotFoundError(f"{request.path_params['name']} does not exist")
    return FileResponse(path)


async def storage(request: Request) -> Response:
    """PUT and GET /storage/{area}/{name}"""
    return await (upload if request.method == "PUT" else download)(request)


async def artifact_file(request: Request) -> Response:
    """GET /artifactsV2/.../{checksum}/{name}: an artifact's file, found by its checksum alone."""
    checksum = request.path_params["checksum"]
    path = request.app.state.store.inside("objects", checksum[:2], checksum)
    if not path.is_file():
        raise NotFoundError(f"no artifact has a file with the checksum {checksum}")
    return FileResponse(path)


async def health(request: Request) -> Response:
    """GET /healthz, which needs no key.

    With `nonce`, the answer proves that this server knows the key. With the key, it lists the
    unsupported requests that were received.
    """
    unsupported, key = request.app.state.unsupported, request.app.state.store.key
    facts = {"status": "ok", "server": "loopback", "unknown": unsupported.total()}
    if nonce := request.query_params.get("nonce"):
        facts["proof"] = proof(key, nonce)
    if has_key(request):
        facts["unknown_names"] = unsupported.names()
    return JSONResponse(facts)


async def not_found(request: Request) -> Response:
    """All other paths: 404, counted as an unsupported request."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(
            "loopback speaks W&B's protocol but has no web pages; see its README for `push`.\n", 404
        )
    request.app.state.unsupported.add(f"{request.method} /{request.path_params['rest']}")
    return problem(404, f"loopback does not serve {request.url.path}")


async def telemetry(request: Request) -> Response:
    """POST /sdk/otel/v1/metrics: 404. The client then sends no more telemetry about itself."""
    return Response(status_code=404)


def app(store: Store, lost_after: float = 120.0) -> Starlette:
    """The application.

    Args:
        store: the store; the application does not close it.
        lost_after: agents and runs that send no request for this many seconds are marked as lost.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        tasks = [
            asyncio.create_task(_reap(store, lost_after)),
            asyncio.create_task(run_in_threadpool(search.warm_up)),
        ]
        yield
        for task in tasks:
            task.cancel()

    any_method = ["GET", "POST", "PUT", "DELETE", "PATCH"]
    read = ["GET", "HEAD"]
    stream_path = "/files/{entity}/{project}/{run}/file_stream"
    artifact_path = "/artifactsV2/{place:path}/{checksum}/{name}"
    routes = [
        Route("/graphql", guarded(graphql), methods=["POST"]),
        Route(stream_path, guarded(file_stream), methods=["POST"]),
        Route("/storage/{area}/{name:path}", guarded(storage), methods=[*read, "PUT"]),
        Route(artifact_path, guarded(artifact_file), methods=read),
        Route("/healthz", health),
        Route("/sdk/otel/v1/metrics", telemetry, methods=["POST"]),
        Route("/{rest:path}", guarded(not_found), methods=any_method),
    ]
    application = Starlette(routes=routes, lifespan=lifespan)
    application.state.store, application.state.search = store, search.Search(store)
    application.state.unsupported = UnsupportedRequests()
    return application


class TimedProtocol(AutoHTTPProtocol):  # type: ignore[valid-type,misc]  # uvicorn chooses the class
    """HTTP that closes a connection whose request head is not complete after MAX_WAIT seconds."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel_deadline()

    def _watch_head(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # the head is complete
            self._cancel_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(MAX_WAIT, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


def run(
    store: Store,
    listener: socket.socket,
    lost_after: float,
    lock_if_unused: Callable[[], IO[str] | None] | None = None,
) -> None:
    """Serves on `listener` until a signal arrives, the store is deleted, or nobody uses it.

    Args:
        store: the store.
        listener: a socket that is bound and listens.
        lost_after: see `app`.
        lock_if_unused: called once per second; returns a lock if no process uses the server. The
            server then stops, and keeps the lock until its process ends.
    """
    config = uvicorn.Config(
        app(store, lost_after),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        http=TimedProtocol,
    )
    server = uvicorn.Server(config)

    def watch() -> None:
        while not server.should_exit:
            time.sleep(1.0)
            try:
                store.check_present()
                store.unused_lock = lock_if_unused() if lock_if_unused else None
            except GoneError as error:
                logger.error("%s", error)
                server.should_exit = True
            if store.unused_lock is not None:
                server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it after an orderly end
        server.run(sockets=[listener])


async def _reap(store: Store, lost_after: float) -> None:
    """Marks lost agents and runs, every two seconds at most."""
    since = last = time.time()
    while True:
        await asyncio.sleep(min(2.0, lost_after / 4))
        if time.time() - last > SECONDS_ASLEEP:
            since = time.time()  # the agents on this machine slept too: wait for their heartbeats
        last = time.time()
        since = min(since, last)  # the clock was set back
        try:
            await run_in_threadpool(lifecycle.follow_clock, store)
            await run_in_threadpool(agents.reap, store, lost_after, since)
        except Exception:
            logger.exception("the check for lost agents failed; it is repeated")
