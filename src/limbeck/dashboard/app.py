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
    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response

REFRESH = 5
"""Seconds after which a browser reloads the page of a running entry."""


def create_app(root: Path, *, refresh: int = REFRESH) -> Starlette:
    """The dashboard of the runs and studies under ``root``."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    # Matplotlib is not thread-safe; unchanged pages are cached.
    draw_lock = threading.Lock()
    headers = {
        "Content-Security-Policy": f"{content_security_policy()}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }  # fmt: skip

    @lru_cache(maxsize=64)
    def cached_page(entry: RunEntry, file_signature: Any) -> str:
        return render_page(entry)

    def show_index(request: Request) -> Response:
        return HTMLResponse(render_index(list_runs(root).values(), root), headers={"Refresh": str(2 * refresh)})

    def show_entry(request: Request) -> Response:
        entry = list_runs(root).get(request.path_params["path"] or ".")
        if entry is None:
            raise HTTPException(404)
        with draw_lock:
            text = cached_page(entry, entry_signature(entry))
        return HTMLResponse(text, headers={"Refresh": str(refresh)} if entry.is_live else None)

    def show_not_found(request: Request, error: Exception) -> Response:
        return HTMLResponse(render_not_found(), status_code=404)

    async def secure(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response: Response = PlainTextResponse(
            "the dashboard is read-only: use GET or HEAD", status_code=405, headers={"Allow": "GET, HEAD"}
        )
        if request.method in ("GET", "HEAD"):
            response = await call_next(request)
        response.headers.update(headers)
        return response

    hosts = ["127.0.0.1", "localhost"]
    return Starlette(
        routes=[Route("/", show_index), Route("/at/{path:path}", show_entry)],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=secure),
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        ],
        exception_handlers={404: show_not_found},
    )
