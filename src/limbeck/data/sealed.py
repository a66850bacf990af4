"""The sealed test part: it can be read once, at the end, and every read is counted.

Choosing anything by the test part (an epoch, a temperature, a method) makes its figure worthless without a word. So
limbeck opens it in one place, after training, and writes that down before the pictures are handed out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.core.files import write_atomically
from limbeck.data.part import Part

__all__ = ["Sealed"]


@final
class Sealed:
    """A part that opens once.

    Arguments:
        part: the test samples.
        ledger: a file that remembers the read across processes; ``None`` remembers it in this object only.
    """

    def __init__(self, part: Part, ledger: Path | None = None) -> None:
        self._part, self._ledger, self._memory = part, ledger, dict[str, Any]()

    def __len__(self) -> int:
        return len(self._part)

    @property
    def reads(self) -> int:
        """How often it was read."""
        return int(self.history().get("reads", 0))

    def history(self) -> dict[str, Any]:
        """What is known of the read: ``reads``, ``opened`` (time), ``by`` (what was to be measured), ``finished``."""
        if self._ledger is not None and self._ledger.exists():
            try:
                written: dict[str, Any] = json.loads(self._ledger.read_text())
                return written
            except ValueError as error:
                raise LimbeckError(
                    f"{self._ledger} is damaged, so nobody knows whether the test part was read"
                ) from error
        return dict(self._memory)

    def bound(self, ledger: Path) -> Sealed:
        """The same part, with its reads remembered in ``ledger``."""
        return Sealed(self._part, ledger)

    def open(self, by: str) -> Part:
        """The test samples; ``by`` says what is measured (a digest of the weights), for the ledger.

        A second read is an error. One that was cut off by a crash before :meth:`finish` may be made again by the same
        weights: nobody has seen a figure.
        """
        before = self.history()
        if before and (before["finished"] or before["by"] != by):
            raise LimbeckError(
                f"the test part was read already, on {before['opened']}: a second look would let it choose between "
                "models, and its figure would be worth nothing. Compare on the validation part, or start a new run"
            )
        self._write(
            {"reads": 1, "opened": datetime.now(UTC).isoformat(timespec="seconds"), "by": by, "finished": False}
        )
        return self._part

    def finish(self) -> None:
        """Say that the figures have been written down; from now on the part stays shut."""
        self._write({**self.history(), "finished": True})

    def _write(self, history: dict[str, Any]) -> None:
        self._memory = history
        if self._ledger is not None:
            write_atomically(self._ledger, lambda path: path.write_text(json.dumps(history, indent=1)))
