"""Serving the dashboard on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["open_socket", "serve"]


def serve(folder: Path, *, port: int = 8642) -> None:
    """Show the runs and studies under ``folder`` at ``http://127.0.0.1:port/`` until it is interrupted.

    Arguments:
        folder: of runs and studies, at any depth up to six.
        port: where to listen; 0 takes a free one.

    Raises:
        LimbeckError: there is no such folder, the port is taken, or the packages of the dashboard are missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LimbeckError(f"{folder} is no folder: give the one that holds your runs, such as runs")
    if not 0 <= port <= 65535:
        raise LimbeckError(f"--port is a number from 0 to 65535, not {port}")
    try:
        import uvicorn

        from limbeck.dashboard.app import create_app

        app = create_app(folder.resolve())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise LimbeckError(
            f"the dashboard needs the package {error.name}, which is not installed: pip install 'limbeck[board]'"
        ) from None
    with open_socket(port) as server_socket:
        print(f"http://127.0.0.1:{server_socket.getsockname()[1]}/ shows {folder} until Ctrl-C", flush=True)  # noqa: T201
        settings = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, ws="none", lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        # Ctrl-C is how one leaves the dashboard, so it is no failure.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[server_socket])


def open_socket(port: int) -> socket.socket:
    """A socket of this machine alone; port 0 is any free one.

    Raises:
        LimbeckError: something else listens there.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise LimbeckError(
            f"port {port} of 127.0.0.1 cannot be listened at ({error.strerror or error}): another dashboard may be "
            "running, or give another --port"
        ) from None
