"""``python -m limbeck`` is the command ``limbeck``, so that ``torchrun -m limbeck distill …`` finds it."""

from __future__ import annotations

import sys

from limbeck.cli import main

if __name__ == "__main__":
    sys.exit(main())
