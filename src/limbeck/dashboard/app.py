"""The dashboard: pages of the runs and studies in a folder, served on 127.0.0.1 until Ctrl-C.

Pages are looked up by name, never by path. The application accepts only GET and HEAD, only with the host names of this
machine (`DNS rebinding <https://owasp.org/www-community/attacks/DNS_Rebinding>`_), and forbids a browser to load
anything else.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.dashboard.run_index import RunEntry, RunIndex, read_phases
from limbeck.report import read_record, render_report
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.compare.comparison import VariantResult
from limbeck.report.formatting import format_duration
from limbeck.report.html.templates import content_security_policy, load_template
from limbeck.report.metrics_csv import load_curves
from limbeck.report.plots.curves import plot_learning_curves
from limbeck.report.plots.style import assign_styles
from limbeck.report.task_metrics import load_task_metrics
from limbeck.utils.console import print_text
from limbeck.utils.io import require_regular_file
from limbeck.workflows.compare.run import build_comparison

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.responses import Response

REFRESH = 5
"""Seconds after which a browser reloads the page of a running entry."""
_PHASE_ROLES = {
    "student_only": Role.BASELINE, "equal_time": Role.BASELINE_EQUAL_TIME,
    "label_smoothing": Role.BASELINE_LABEL_SMOOTHING, **{role.value: role for role in Role},
}  # fmt: skip
"""The models of runs and the built-in variants of studies, by the names of their phases."""


def serve(folder: Path, *, port: int = 8642) -> None:
    """Serve the runs and studies in ``folder`` at ``http://127.0.0.1:port/`` until interrupted.

    Args:
        folder: holds runs and studies, up to six levels deep.
        port: the TCP port; 0 selects a free one.

    Raises:
        LimbeckError: the folder does not exist, the port is in use, or the extra ``dashboard`` is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LimbeckError(f"{folder} is not a folder: give the folder that holds your runs, such as runs")
    if not 0 <= port <= 65535:
        raise LimbeckError(f"--port must be from 0 to 65535, got {port}")
    try:
        import uvicorn

        app = create_app(folder.resolve())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise LimbeckError(
            f"the dashboard needs the package {error.name}, which is not installed: pip install 'limbeck[dashboard]'"
        ) from None
    with open_socket(port) as server_socket:
        print_text(f"http://127.0.0.1:{server_socket.getsockname()[1]}/ shows {folder} until Ctrl-C")
        settings = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, ws="none", lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        # Ctrl-C is the normal way to stop the dashboard.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[server_socket])


def open_socket(port: int) -> socket.socket:
    """A socket that only this machine can reach; port 0 selects a free one.

    Raises:
        LimbeckError: the port is in use.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise LimbeckError(
            f"port {port} of 127.0.0.1 cannot be opened ({error.strerror or error}): stop the other dashboard, "
            "or give another --port"
        ) from None


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
    draw_lock, index_lock, index = threading.Lock(), threading.Lock(), RunIndex(root)
    headers = {
        "Content-Security-Policy": f"{content_security_policy()}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }  # fmt: skip

    @lru_cache(maxsize=64)
    def cached_page(entry: RunEntry) -> str:
        return render_page(entry)

    index_pages: list[tuple[Mapping[str, RunEntry], str]] = []

    def show_index(request: Request) -> Response:
        entries = index.read()
        with index_lock:  # requests of one search share its page
            if not index_pages or index_pages[0][0] is not entries:
                index_pages[:] = [(entries, render_index(entries.values(), root))]
            text = index_pages[0][1]
        return HTMLResponse(text.encode("utf-8", "replace"), headers={"Refresh": str(2 * refresh)})

    def show_entry(request: Request) -> Response:
        entry = index.read().get(request.path_params["path"] or ".")
        if entry is None:
            raise HTTPException(404)
        with draw_lock:
            text = cached_page(entry)
        # A path may hold bytes that are no UTF-8.
        page_headers = {"Refresh": str(refresh)} if entry.state == "running" else None
        return HTMLResponse(text.encode("utf-8", "replace"), headers=page_headers)

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


def render_index(entries: Iterable[RunEntry], root: Path) -> str:
    """The index of all runs and studies; of ``root`` it shows only the name."""
    name = os.fsencode(root.name or "runs").decode("utf-8", "replace")
    return _render("index.html.j2", rows=list(entries), name=name)


def render_page(entry: RunEntry) -> str:
    """The page of one run or study; where its files cannot be read, a page with the reason."""
    try:
        if entry.kind == "study":
            return render_compare_page(build_comparison([entry.folder]), home_url="/")
        has_record = (entry.folder / "record.json").exists()
        return _render_report(entry.folder) if has_record else _render_training(entry)
    except LimbeckError as error:
        text = str(error)
    except Exception as error:  # an edited record must not stop the dashboard
        text = f"The files of this {entry.kind} cannot be read at present ({type(error).__name__})."
    return _render("message.html.j2", title=entry.relative_path, text=text)


def render_not_found() -> str:
    """The page of an unknown address."""
    text = "There is no run or study of this name on the dashboard: it may have been moved or removed."
    return _render("message.html.j2", title="Not found", text=text)


def _render(template: str, **context: Any) -> str:
    page = load_template(template, folder=Path(__file__).parent)
    return page.render(age=_format_age, local_time=_format_time, **context)


def _render_report(folder: Path) -> str:
    report_path = folder / "report.html"
    if report_path.exists():
        return require_regular_file(report_path).read_text(encoding="utf-8")
    # A trial of a study holds one variant, which only a comparison shows.
    is_run = read_record(folder / "record.json").kind == "run"
    return render_report(folder) if is_run else render_compare_page(build_comparison([folder]), home_url="/")


def _render_training(entry: RunEntry) -> str:
    # A phase of any other name trains a teacher or an assistant.
    curves = load_curves(entry.folder / "metrics.csv")
    metric = load_task_metrics(entry.folder, curves).monitored_spec
    variants = [
        VariantResult(name=name, role=_PHASE_ROLES.get(name, Role.TEACHER), curves=(curve,))
        for name, curve in curves.items()
    ]
    styles = assign_styles(variants)
    return _render(
        "training.html.j2", entry=entry, phases=read_phases(entry.folder), styles=styles,
        metric=metric, curve_plot=plot_learning_curves(variants, styles, metric),
    )  # fmt: skip


def _format_age(modified: float) -> str:
    return f"{format_duration(max(0.0, time.time() - modified))} ago"


def _format_time(modified: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(modified))
