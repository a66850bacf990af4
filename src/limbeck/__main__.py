"""``python -m limbeck`` is the command ``limbeck``, so that ``torchrun -m limbeck distill …`` finds it."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # `python -m` puts the current folder first on the path, where a file named as a library would run in its place.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109  # pathlib is in no frozen module
        del sys.path[0]
    from limbeck.cli import main

    sys.exit(main())
