"""The HTTP server: who may ask, how much, and which module answers."""

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
from collections.abc import Callable
from pathlib import Path

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from loopback import agents, lifecycle, search, stream
from loopback.graph import Context, Unknown, answer
from loopback.links import Links, proof, signature
from loopback.store import GoneError, NotFoundError, Store, disk_is_full, now

logger = logging.getLogger("loopback")

MEGABYTE = 2**20
LARGEST_BODY = 64 * MEGABYTE  # of a question or a chunk of the file stream
LARGEST_FILE = 20_000 * MEGABYTE  # of an upload
THREADS = 8  # requests that are worked on at a time; the others wait
LONGEST_WAIT = 30.0  # seconds for the head of a request, or for the next piece of its body
AREAS = ("runs", "objects", "manifests")
NAME_ERRORS = (IsADirectoryError, NotADirectoryError, FileExistsError)


class TooLargeError(Exception):
    """A request's body is larger than the server takes."""


def key_of(request: Request) -> str | None:
    """The key that a request shows: `Authorization: Basic api:KEY` or `Bearer KEY`."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value).decode().partition(":")[2]
    return None


def shows_key(request: Request) -> bool:
    """Whether the request carries the store's key."""
    shown = key_of(request)
    return shown is not None and hmac.compare_digest(
        shown.encode(), request.app.state.store.key.encode()
    )


def allowed(request: Request) -> bool:
    """Whether the request shows the key, or a signature that the server has made for this very path."""
    if shows_key(request):
        return True
    key = request.app.state.store.key
    method = "GET" if request.method == "HEAD" else request.method
    given = request.query_params.get("signature", "")
    return hmac.compare_digest(given.encode(), signature(key, method, request.url.path).encode())


async def bounded(request: Request, limit: int):
    """The body piece by piece. TooLargeError as soon as it is known to be more than `limit` bytes."""
    if int(request.headers.get("content-length") or 0) > limit:
        raise TooLargeError
    size, pieces = 0, aiter(request.stream())
    while True:
        async with asyncio.timeout(LONGEST_WAIT):
            piece = await anext(pieces, None)
        if piece is None:
            return
        size += len(piece)
        if size > limit:
            raise TooLargeError
        yield piece


async def json_body(request: Request) -> dict:
    """The body as an object. ValueError if it is something else."""
    raw = b"".join([piece async for piece in bounded(request, LARGEST_BODY)])
    body = await run_in_threadpool(json.loads, raw)
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def guarded(endpoint):
    """An endpoint for those who may ask; what goes wrong is answered with a status and a sentence."""

    async def respond(request: Request) -> Response:
        if not allowed(request):
            return problem(
                401,
                "wrong or missing key: set WANDB_API_KEY to the text of the file `key` in the store",
            )
        try:
            request.app.state.store.check_present()
            reply = await endpoint(request)
            request.app.state.store.check_present()  # what was written into a deleted file is not acknowledged
            return reply
        except GoneError as error:
            return problem(503, str(error))
        except TooLargeError:
            return problem(413, "the body is larger than this server takes")
        except NotFoundError as error:
            return problem(404, str(error))
        except (ValueError, RecursionError) as error:
            return problem(400, f"{type(error).__name__}: {error}")
        except ClientDisconnect:
            return problem(400, "the client left in the middle of its request")
        except TimeoutError:
            return problem(
                408, f"the next piece of the request did not come within {LONGEST_WAIT:.0f} s"
            )
        except NAME_ERRORS as error:
            return problem(400, f"the name is taken: {error.strerror}")
        except (OSError, sqlite3.OperationalError) as error:
            if not disk_is_full(error):
                raise
            return problem(
                507,
                f"the disk of the store cannot be written: {error}; free space, the request can be repeated",
            )

    return respond


def problem(status: int, message: str) -> JSONResponse:
    """An error that both GraphQL clients and people can read."""
    message = message.encode(errors="replace").decode()  # it may quote half of a surrogate pair
    headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}
    return JSONResponse({"error": message, "errors": [{"message": message}]}, status, headers)


async def graphql(request: Request) -> Response:
    """POST /graphql"""
    state, body = request.app.state, await json_body(request)
    links = Links(str(request.base_url).rstrip("/"), state.store.key)
    context = Context(state.store, state.search, links)
    status, reply = await run_in_threadpool(answer, context, state.unknown, body)
    return JSONResponse(reply, status)


async def file_stream(request: Request) -> Response:
    """POST /files/{entity}/{project}/{run}/file_stream"""
    body = await json_body(request)
    names = (request.path_params[part] for part in ("entity", "project", "run"))
    state = request.app.state
    return JSONResponse(
        await run_in_threadpool(stream.receive, state.store, state.search, *names, body)
    )


def storage_path(request: Request) -> Path:
    """The file that /storage/{area}/{name} means. ValueError for paths that would lead out of the store."""
    area, name = request.path_params["area"], request.path_params["name"]
    if area not in AREAS:
        raise NotFoundError(f"there is no storage area {area!r}")
    return request.app.state.store.inside(area, name)


async def upload(request: Request) -> Response:
    """PUT /storage/{area}/{name}: the file appears whole or not at all."""
    path = storage_path(request)
    run_id, _, name = request.path_params["name"].partition("/")
    if request.path_params["area"] == "runs" and not (
        name and run_id.isdecimal() and len(run_id) < 19
    ):
        raise ValueError("a file of a run is /storage/runs/NUMBER/NAME")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = request.app.state.store.folder / "uploads" / secrets.token_hex(8)
    partial.parent.mkdir(exist_ok=True)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with partial.open("wb") as file:
            async for piece in bounded(request, LARGEST_FILE):
                await run_in_threadpool(file.write, piece)
                digest.update(piece)
                size += len(piece)
        if request.path_params["area"] == "objects" and path.name != digest.hexdigest():
            raise ValueError("the bytes do not have the checksum under which they were announced")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    await run_in_threadpool(_note_file, request, digest.digest(), size)
    return Response(status_code=200)


def _note_file(request: Request, digest: bytes, size: int) -> None:
    if request.path_params["area"] != "runs":
        return
    run_id, _, name = request.path_params["name"].partition("/")
    sql = (
        "INSERT OR REPLACE INTO files (run_id, name, size, md5, updated_at) VALUES (?, ?, ?, ?, ?)"
    )
    request.app.state.store.write(
        sql, int(run_id), name, size, base64.b64encode(digest).decode(), now()
    )


async def download(request: Request) -> Response:
    """GET /storage/{area}/{name}"""
    path = storage_path(request)
    if not path.is_file():
        raise NotFoundError(f"{request.path_params['name']} does not exist")
    return FileResponse(path)


async def artifact_file(request: Request) -> Response:
    """GET /artifactsV2/.../{checksum}/{name}: one file of an artifact. The checksum alone says which bytes."""
    checksum = request.path_params["checksum"]
    path = request.app.state.store.inside("objects", checksum[:2], checksum)
    if not path.is_file():
        raise NotFoundError(f"no artifact has a file with the checksum {checksum}")
    return FileResponse(path)


async def storage(request: Request) -> Response:
    """PUT and GET of stored bytes."""
    return await (upload if request.method == "PUT" else download)(request)


async def health(request: Request) -> Response:
    """GET /healthz, open to all. With `nonce`, proof that this server knows the key; with the key, what is not served."""
    unknown, key = request.app.state.unknown, request.app.state.store.key
    facts = {"status": "ok", "server": "loopback", "unknown": unknown.total()}
    if nonce := request.query_params.get("nonce"):
        facts["proof"] = proof(key, nonce)
    if shows_key(request):
        facts["unknown_names"] = unknown.names()
    return JSONResponse(facts)


async def nothing(request: Request) -> Response:
    """Everything else."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(
            "loopback speaks W&B's protocol but has no web pages; see its README for `push`.\n", 404
        )
    request.app.state.unknown.add(f"{request.method} /{request.path_params['rest']}")
    return problem(404, f"loopback does not serve {request.url.path}")


async def metrics(request: Request) -> Response:
    """POST /sdk/otel/v1/metrics: the client's own telemetry, for which there is nobody here."""
    return Response(status_code=404)


def app(store: Store, patience: float = 120.0) -> Starlette:
    """The application. Agents and runs that are not heard of for `patience` seconds are given up."""

    @contextlib.asynccontextmanager
    async def lifespan(application):
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        tasks = [
            asyncio.create_task(_reap(store, patience)),
            asyncio.create_task(run_in_threadpool(search.warm_up)),
        ]
        yield
        for task in tasks:
            task.cancel()

    routes = [
        Route("/graphql", guarded(graphql), methods=["POST"]),
        Route(
            "/files/{entity}/{project}/{run}/file_stream", guarded(file_stream), methods=["POST"]
        ),
        Route("/storage/{area}/{name:path}", guarded(storage), methods=["GET", "HEAD", "PUT"]),
        Route(
            "/artifactsV2/{place:path}/{checksum}/{name}",
            guarded(artifact_file),
            methods=["GET", "HEAD"],
        ),
        Route("/healthz", health),
        Route("/sdk/otel/v1/metrics", metrics, methods=["POST"]),
        Route("/{rest:path}", guarded(nothing), methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    application = Starlette(routes=routes, lifespan=lifespan)
    application.state.store, application.state.search = store, search.Search(store)
    application.state.unknown = Unknown()
    return application


class PunctualProtocol(AutoHTTPProtocol):
    """HTTP that closes a connection whose request head is not whole after LONGEST_WAIT seconds."""

    _deadline = None

    def connection_made(self, transport):
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data):
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self._forget_deadline()

    def _watch_head(self):
        if self.cycle and not self.cycle.response_complete:
            self._forget_deadline()  # the head is whole
        elif self._deadline is None:
            self._deadline = self.loop.call_later(LONGEST_WAIT, self.transport.close)

    def _forget_deadline(self):
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


def run(
    store: Store, listener: socket.socket, patience: float, unused: Callable | None = None
) -> None:
    """Serves on `listener` until a signal comes, `unused()` returns a lock, or the store is deleted."""
    config = uvicorn.Config(
        app(store, patience),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        http=PunctualProtocol,
    )
    server = uvicorn.Server(config)

    def watch():
        while not server.should_exit:
            time.sleep(1.0)
            try:
                store.check_present()
                store.last_lock = unused() if unused else None  # held until the process ends
            except GoneError as error:
                logger.error("%s", error)
                server.should_exit = True
            if store.last_lock is not None:
                server.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(
        KeyboardInterrupt
    ):  # uvicorn has ended in good order, and raises it again
        server.run(sockets=[listener])


async def _reap(store: Store, patience: float) -> None:
    since = last = time.time()
    while True:
        await asyncio.sleep(min(2.0, patience / 4))
        if time.time() - last > 10:
            since = time.time()  # the machine slept, and everybody with it
        last = time.time()
        since = min(since, last)  # the clock was set back
        try:
            await run_in_threadpool(lifecycle.follow_clock, store)
            await run_in_threadpool(agents.reap, store, patience, since)
        except Exception:
            logger.exception("looking for lost agents failed; trying again")
