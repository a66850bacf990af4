"""The sealed test part: it can be read once, at the end, and every read is counted.

Choosing anything by the test part (an epoch, a temperature, a method) makes its figure worthless without a word. So
limbeck opens it in one place, after training, and writes that down before the pictures are handed out.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Part
from limbeck.utils.io import write_atomically

__all__ = ["Sealed"]

_KEYS = {"reads", "opened", "by", "finished"}


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
                written = json.loads(self._ledger.read_text())
                if not isinstance(written, dict) or not written.keys() >= _KEYS:
                    raise ValueError(f"it needs {', '.join(sorted(_KEYS))}")
            except (OSError, ValueError) as error:
                raise LimbeckError(
                    f"{self._ledger} is damaged, so nobody knows whether the test part was read: start a new run"
                ) from error
            return written
        return dict(self._memory)

    def fingerprint(self) -> str:
        """A hash that changes when the test samples do; taking it shows nobody anything and is no read."""
        part = self._part
        text = [part.images.fingerprint(), str(part.number.tolist()), str(part.target.tolist())]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

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
        if not (before := self.history()):
            raise LimbeckError("the test part was not opened, so there are no figures to finish: call open(by) first")
        self._write({**before, "finished": True})

    def _write(self, history: dict[str, Any]) -> None:
        self._memory = history
        if self._ledger is not None:
            write_atomically(self._ledger, lambda path: path.write_text(json.dumps(history, indent=1)))
