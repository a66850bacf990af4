"""How long limbeck takes to answer: `limbeck --help`, and `import limbeck` beside `import torch`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from results import row, write

TURNS = 10


def seconds(*command: str) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    limbeck = str(Path(sys.executable).with_name("limbeck"))
    seconds(limbeck, "--help")
    helps = [seconds(limbeck, "--help") for _ in range(TURNS)]
    # A bare import is lazy; touching the public API is what a script does.
    use = "import torch, limbeck; limbeck.Distiller, limbeck.losses.SoftTarget, limbeck.tasks.Classification"
    seconds(sys.executable, "-c", use)
    extra = [seconds(sys.executable, "-c", use) - seconds(sys.executable, "-c", "import torch") for _ in range(TURNS)]
    write(
        [
            row("help_seconds", helps, unit="s", aim="< 0.3", data="none"),
            row("import_over_torch_seconds", extra, unit="s", aim="report", data="none"),
        ]
    )


if __name__ == "__main__":
    main()
