"""What stands before every request: who asks, from where, how much and how often; and what every answer carries.

One plain ASGI layer, because it sees every request (static files and event streams included) and costs microseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitter.service.metrics import Metrics
from fitter.service.problems import Problem, echo
from fitter.service.tokens import Doorkeeper

COOKIE = "lacuna_token"
LARGEST_BODY = 8 * 2**20
"""Bytes of a request's body: a table of some 100,000 runs."""
BODY_SECONDS = 30.0
LONGEST_ADDRESS = 8 * 2**10
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/healthz", "/readyz", "/login", "/session")
READ_ONLY_POSTS = ("/law/predict", "/law/optimum")
"""POST only because the question is long: reading is enough."""

#: Nothing from elsewhere, no inline script. Plotly positions its text by style attributes, which cannot run code.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # Plotly puts one style sheet, for maps that we do not draw, into the page as it loads; its hash keeps it quiet.
        "style-src 'self' 'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Rate:
    """A bucket of tokens for each client: `burst` at once, `per_second` in the long run."""

    def __init__(self, per_second: float, burst: float, clients: int = 10_000) -> None:
        self._per_second, self._burst, self._clients = per_second, burst, clients
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take a token; 0.0, or the seconds until there is one."""
        level, at = self._buckets.pop(client, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._per_second)
        taken = level >= 1.0
        self._buckets[client] = (level - 1.0 if taken else level, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1.0 - level) / self._per_second


class Guard:
    """The layer. `require_token`: whether anybody but this machine may reach the service."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        require_token: bool,
        doorkeeper: Doorkeeper,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._require_token = require_token
        self._doorkeeper = doorkeeper
        self._metrics = metrics
        self._clock = clock
        self._reads = Rate(per_second=500, burst=2000)
        self._writes = Rate(per_second=20, burst=200)
        self._logins = Rate(per_second=0.2, burst=10)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._require_token:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        try:
            refused = await self._refusal(request)
            if refused is None:
                receive = await _whole_body(scope, receive)
        except Problem as problem:
            refused = problem.response(request)
        try:
            await (refused or self._app)(scope, receive, answer)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "refused" if refused else "unknown")
            self._metrics.observe(request.method, path, status, self._clock() - began)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not pass. Raises Problem for most of them."""
        path = request.url.path
        if len(request.scope.get("query_string", b"")) + len(path) > LONGEST_ADDRESS:
            raise Problem(
                414, "address-too-long", "The address is too long", f"At most {LONGEST_ADDRESS} bytes."
            )
        if not self._require_token:
            _check_host(request.headers)
        if request.method not in SAFE:
            _check_origin(request.headers)
        self._check_rate(request)
        if not self._require_token or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        return await self._check_token(request)

    def _check_rate(self, request: Request) -> None:
        client = request.client.host if request.client else ""
        rate = self._reads if request.method in SAFE else self._writes
        if request.url.path == "/session" and request.method == "POST":
            rate = self._logins
        elif request.url.path.endswith(READ_ONLY_POSTS):
            rate = self._reads
        wait = rate.wait(client, self._clock())
        if wait:
            raise Problem(
                429,
                "too-many-requests",
                "Too many requests",
                f"This client asked too often; ask again in {wait:.1f} s.",
                headers={"Retry-After": str(int(wait) + 1)},
            )

    async def _check_token(self, request: Request) -> Response | None:
        kind, _, presented = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            presented = _cookie(request.headers.get("cookie", ""))
        scopes = frozenset[str]()
        if presented:
            scopes = frozenset(await run_in_threadpool(self._doorkeeper.scopes, presented.strip()))
        if not scopes:
            if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
                return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
            raise Problem(
                401,
                "token-needed",
                "A token is needed",
                "Send a valid one as `Authorization: Bearer TOKEN`, or log in on the page.",
                headers={"WWW-Authenticate": 'Bearer realm="lacuna"'},
            )
        reading = request.method in SAFE or request.url.path.endswith((*READ_ONLY_POSTS, "/v1/fit"))
        needed = "read" if reading else "write"
        if needed not in scopes:
            raise Problem(
                403,
                "scope-needed",
                "The token may not do this",
                f"This needs the scope '{needed}'; the token has {', '.join(sorted(scopes))}.",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
            )
        return None


def _check_host(headers: Headers) -> None:
    """On loopback no token is asked for, so a page elsewhere must not reach us by a name that points here."""
    host = urlsplit(f"//{headers.get('host', '')}").hostname
    if host not in ("localhost", "127.0.0.1", "::1"):
        raise Problem(
            421,
            "wrong-host",
            "This service is not of that name",
            f"Host was '{echo(headers.get('host', ''))}': without a token this service answers to localhost and "
            "127.0.0.1 only.",
        )


def _check_origin(headers: Headers) -> None:
    """No page elsewhere may make a browser write here: with the cookie, or on loopback with nothing at all."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    foreign = site not in ("same-origin", "none") if site else False
    if origin is not None and not site:
        foreign = urlsplit(origin).netloc != headers.get("host")
    if foreign:
        raise Problem(
            403,
            "cross-site-request",
            "Pages elsewhere may not write here",
            f"The request came from '{echo(origin or site)}'.",
        )


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _whole_body(scope: Scope, receive: Receive) -> Receive:
    """The request's body, read whole before anything works on it. Raises Problem (408, 413)."""
    headers = Headers(scope=scope)
    if (
        scope["method"] in ("GET", "HEAD")
        and "transfer-encoding" not in headers
        and "content-length" not in headers
    ):
        return receive
    announced = headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > LARGEST_BODY:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > LARGEST_BODY:
                    raise _too_large()
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise Problem(
            408, "slow-body", "The body did not come", f"It took over {BODY_SECONDS:.0f} s."
        ) from None
    body: list[Message] = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

    async def replay() -> Message:
        return body.pop() if body else await receive()

    return replay


def _too_large() -> Problem:
    return Problem(
        413, "body-too-large", "The body is too large", f"At most {LARGEST_BODY // 2**20} MiB are read."
    )
