"""Serves the dashboard on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from limbeck.core.errors import LimbeckError


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

        from limbeck.dashboard.app import create_app

        app = create_app(folder.resolve())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise LimbeckError(
            f"the dashboard needs the package {error.name}, which is not installed: pip install 'limbeck[dashboard]'"
        ) from None
    with open_socket(port) as server_socket:
        print(f"http://127.0.0.1:{server_socket.getsockname()[1]}/ shows {folder} until Ctrl-C", flush=True)  # noqa: T201
        settings = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, ws="none", lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        # Ctrl-C is the normal way to stop the dashboard.
        with contextlib.suppress(KeyboardInterrupt):
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
