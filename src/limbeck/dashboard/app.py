"""The dashboard as an ASGI application: pages are looked up by name, never by path.

It accepts only GET and HEAD, only with the host names of this machine (`DNS rebinding
<https://owasp.org/www-community/attacks/DNS_Rebinding>`_), and forbids a browser to load anything else.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.dashboard.pages import render_index, render_not_found, render_page
from limbeck.dashboard.run_index import RunEntry, entry_signature, list_runs
from limbeck.report.html.templates import content_security_policy

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["REFRESH", "create_app"]

REFRESH = 5
"""Seconds after which a browser reloads the page of a running entry."""
_HOSTS = ["127.0.0.1", "localhost"]


def create_app(root: Path, *, refresh: int = REFRESH) -> Starlette:
    """The dashboard of the runs and studies under ``root``."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    # Matplotlib is not thread-safe; unchanged pages are cached.
    draw_lock = threading.Lock()

    @lru_cache(maxsize=64)
    def cached_page(entry: RunEntry, file_signature: Any) -> str:
        return render_page(entry)

    def show_index(request: Request) -> Response:
        return HTMLResponse(render_index(list_runs(root).values(), root), headers={"Refresh": str(2 * refresh)})

    def show_entry(request: Request) -> Response:
        entry = list_runs(root).get(request.path_params["path"] or ".")
        if entry is None:
            return HTMLResponse(render_not_found(), status_code=404)
        with draw_lock:
            text = cached_page(entry, entry_signature(entry))
        return HTMLResponse(text, headers={"Refresh": str(refresh)} if entry.is_live else None)

    def show_not_found(request: Request, error: Exception) -> Response:
        return HTMLResponse(render_not_found(), status_code=404)

    return Starlette(
        routes=[Route("/", show_index), Route("/at/{path:path}", show_entry)],
        middleware=[
            Middleware(_SecurityHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False),
        ],
        exception_handlers={404: show_not_found},
    )  # fmt: skip


class _SecurityHeaders:
    """Rejects every method but GET and HEAD, and adds security headers to all responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.headers = [
            (b"content-security-policy", f"{content_security_policy()}; frame-ancestors 'none'".encode()),
            (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"), (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"), (b"cache-control", b"no-store"),
        ]  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self.headers]}
            await send(message)

        if scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send_with_headers)
            return
        from starlette.responses import PlainTextResponse

        response = PlainTextResponse(
            "the dashboard is read-only: use GET or HEAD", status_code=405, headers={"Allow": "GET, HEAD"}
        )
        await response(scope, receive, send_with_headers)
