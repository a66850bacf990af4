"""The board as an ASGI application: three kinds of pages, each looked up by name and never by path.

It answers GET and HEAD, to this machine's own names only (`DNS rebinding
<https://owasp.org/www-community/attacks/DNS_Rebinding>`_), and lets a browser load nothing from anywhere.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.dashboard.pages import index, missing, page
from limbeck.dashboard.run_index import Entry, entries, signature
from limbeck.report.compare import policy

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REFRESH", "application"]

REFRESH = 5
"""Seconds after which a browser looks again, where more is to come."""

_HOSTS = ["127.0.0.1", "localhost"]


def application(root: Path, *, refresh: int = REFRESH) -> Starlette:
    """The board of what stands under ``root``."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    # Matplotlib draws one picture at a time, and a page that nobody changed is not drawn twice.
    drawing = threading.Lock()

    @lru_cache(maxsize=64)
    def kept(entry: Entry, mark: Any) -> str:
        return page(entry)

    def home(request: Request) -> Response:
        return HTMLResponse(index(entries(root).values(), root), headers={"Refresh": str(2 * refresh)})

    def one(request: Request) -> Response:
        entry = entries(root).get(request.path_params["place"] or ".")
        if entry is None:
            return HTMLResponse(missing(), status_code=404)
        with drawing:
            text = kept(entry, signature(entry))
        return HTMLResponse(text, headers={"Refresh": str(refresh)} if entry.live else None)

    def nothing(request: Request, error: Exception) -> Response:
        return HTMLResponse(missing(), status_code=404)

    return Starlette(
        routes=[Route("/", home), Route("/at/{place:path}", one)],
        middleware=[
            Middleware(_Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False),
        ],
        exception_handlers={404: nothing},
    )  # fmt: skip


class _Guarded:
    """Lets reading through and nothing else, and says to every answer what a browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", f"{policy()}; frame-ancestors 'none'".encode()),
            (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"), (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-store"),
        ]  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        if scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, told)
            return
        from starlette.responses import PlainTextResponse

        refused = PlainTextResponse(
            "the board only shows: GET and HEAD", status_code=405, headers={"Allow": "GET, HEAD"}
        )
        await refused(scope, receive, told)
