"""Start-up time: `limbeck --help`, and `import limbeck` minus `import torch`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from results import make_row, write_rows

TURNS = 10


def time_command(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    limbeck = str(Path(sys.executable).with_name("limbeck"))
    time_command(limbeck, "--help")
    help_seconds = [time_command(limbeck, "--help") for _ in range(TURNS)]
    # A bare import is lazy; a script uses the public API.
    use = "import torch, limbeck; limbeck.Distiller, limbeck.losses.KDLoss, limbeck.tasks.Classification"
    time_command(sys.executable, "-c", use)
    import_seconds = [
        time_command(sys.executable, "-c", use) - time_command(sys.executable, "-c", "import torch")
        for _ in range(TURNS)
    ]
    write_rows(
        [
            make_row("help_seconds", help_seconds, unit="s", aim="< 0.3", data="none"),
            make_row("import_over_torch_seconds", import_seconds, unit="s", aim="report", data="none"),
        ]
    )


if __name__ == "__main__":
    main()
