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
from limbeck.data.split import Split
from limbeck.utils.io import write_atomically

__all__ = ["HeldOutTest"]

_LOG_KEYS = {"num_reads", "opened_at", "reason", "is_closed"}
_FIRST_LOG_NAME = "sealed.json"
_FIRST_LOG_KEYS = {"reads": "num_reads", "opened": "opened_at", "by": "reason", "finished": "is_closed"}


@final
class HeldOutTest:
    """A part that opens once.

    Arguments:
        split: the test samples.
        log_path: a file that remembers the read across processes; ``None`` remembers it in this object only.
    """

    def __init__(self, split: Split, log_path: Path | None = None) -> None:
        self._split, self._log_path, self._in_memory_log = split, log_path, dict[str, Any]()

    def __len__(self) -> int:
        return len(self._split)

    @property
    def num_reads(self) -> int:
        """How often it was read."""
        return int(self.read_log().get("num_reads", 0))

    def read_log(self) -> dict[str, Any]:
        """What is known of the read: ``num_reads``, ``opened_at``, ``reason`` (what was measured), ``is_closed``.

        Where there is no log yet, but one of a run with a record of schema 2 beside it, that one counts.
        """
        if (path := self._existing_log()) is not None:
            try:
                log = json.loads(path.read_text())
                if path.name == _FIRST_LOG_NAME and isinstance(log, dict):
                    log = {_FIRST_LOG_KEYS.get(key, key): value for key, value in log.items()}
                if not isinstance(log, dict) or not log.keys() >= _LOG_KEYS:
                    raise ValueError(f"it needs {', '.join(sorted(_LOG_KEYS))}")
            except (OSError, ValueError) as error:
                raise LimbeckError(
                    f"{path} is damaged, so nobody knows whether the test part was read: start a new run"
                ) from error
            return log
        return dict(self._in_memory_log)

    def _existing_log(self) -> Path | None:
        if self._log_path is None:
            return None
        paths = (self._log_path, self._log_path.with_name(_FIRST_LOG_NAME))
        return next((path for path in paths if path.exists()), None)

    def fingerprint(self) -> str:
        """A hash that changes when the test samples do; taking it shows nobody anything and is no read."""
        split = self._split
        text = [split.images.fingerprint(), str(split.sample_ids.tolist()), str(split.target.tolist())]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    def with_log(self, path: Path) -> HeldOutTest:
        """The same part, with its reads remembered in the file at ``path``."""
        return HeldOutTest(self._split, path)

    def unlock(self, reason: str) -> Split:
        """The test samples; ``reason`` says what is measured (a digest of the weights), for the log.

        A second read is an error. One that was cut off by a crash before :meth:`close` may be made again by the same
        weights: nobody has seen a figure.
        """
        log = self.read_log()
        if log and (log["is_closed"] or log["reason"] != reason):
            raise LimbeckError(
                f"the test part was read already, on {log['opened_at']}: a second look would let it choose between "
                "models, and its figure would be worth nothing. Compare on the validation part, or start a new run"
            )
        self._write_log(
            {
                "num_reads": 1,
                "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "reason": reason,
                "is_closed": False,
            }
        )
        return self._split

    def close(self) -> None:
        """Say that the figures have been written down; from now on the part stays shut."""
        if not (log := self.read_log()):
            raise LimbeckError(
                "the test part was not opened, so there are no figures to finish: call unlock(reason) first"
            )
        self._write_log({**log, "is_closed": True})

    def _write_log(self, log: dict[str, Any]) -> None:
        self._in_memory_log = log
        if self._log_path is not None:
            write_atomically(self._log_path, lambda path: path.write_text(json.dumps(log, indent=1)))
