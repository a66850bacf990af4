"""The held-out test split: it is opened once, after training, and the access is logged.

Model selection on the test split (of an epoch, a temperature, a method) would bias its metrics.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.data.split import Split
from limbeck.utils.io import parse_json, require_regular_file, write_text

__all__ = ["HeldOutTest", "close_access_log"]

_LOG_KEYS = {"num_reads", "opened_at", "reason", "is_closed"}
_FIRST_LOG_NAME = "sealed.json"
_FIRST_LOG_KEYS = {"reads": "num_reads", "opened": "opened_at", "by": "reason", "finished": "is_closed"}


@final
class HeldOutTest:
    """A split that opens once.

    Args:
        split: the test samples.
        log_path: file of the access log; ``None``: the log is in this object only.
    """

    def __init__(self, split: Split, log_path: Path | None = None) -> None:
        self._split, self._log_path, self._in_memory_log = split, log_path, dict[str, Any]()

    def __len__(self) -> int:
        return len(self._split)

    @property
    def num_reads(self) -> int:
        """Number of reads."""
        return int(self.read_log().get("num_reads", 0))

    def read_log(self) -> dict[str, Any]:
        """The access log: ``num_reads``, ``opened_at``, ``reason`` (what was measured), ``is_closed``.

        It may be that of a run with a record of schema 2, which has another file name and other keys.
        """
        log = None if self._log_path is None else _read_log(self._log_path)
        return dict(self._in_memory_log) if log is None else log

    def fingerprint(self) -> str:
        """A hash that changes when the test samples do; computing it is not a read."""
        return hashlib.sha256("\n".join(self._split.fingerprint()).encode()).hexdigest()

    def with_log(self, path: Path) -> HeldOutTest:
        """The same split, with its access log in the file ``path``."""
        return HeldOutTest(self._split, path)

    def unlock(self, reason: str) -> Split:
        """The test samples; ``reason`` is logged, such as a digest of the weights.

        A read that a crash ended before :meth:`close` may be repeated with the same reason, since no metric was
        written.

        Raises:
            LimbeckError: the split was read already.
        """
        log = self.read_log()
        if log and (log["is_closed"] or log["reason"] != reason):
            raise LimbeckError(
                f"the test split was already read, on {log['opened_at']}: a second read would allow choosing between "
                "models on it and bias its metrics. Compare on the validation split, or start a new run"
            )
        opened_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._write_log({"num_reads": 1, "opened_at": opened_at, "reason": reason, "is_closed": False})
        return self._split

    def close(self) -> None:
        """Mark the metrics as written; the split cannot be opened again."""
        if not (log := self.read_log()):
            raise LimbeckError("the test split was not opened: call unlock(reason) before close()")
        self._write_log({**log, "is_closed": True})

    def _write_log(self, log: dict[str, Any]) -> None:
        self._in_memory_log = log
        if self._log_path is not None:
            write_text(self._log_path, json.dumps(log, indent=1))


def close_access_log(path: Path) -> None:
    """Mark the metrics of a finished run as written, where its process was killed before :meth:`HeldOutTest.close`."""
    log = _read_log(path)
    if log is not None and not log["is_closed"]:
        write_text(path, json.dumps({**log, "is_closed": True}, indent=1))


def _read_log(log_path: Path) -> dict[str, Any] | None:
    path = next((path for path in (log_path, log_path.with_name(_FIRST_LOG_NAME)) if path.exists()), None)
    if path is None:
        return None
    try:
        log = parse_json(require_regular_file(path).read_text())
        if path.name == _FIRST_LOG_NAME and isinstance(log, dict):
            log = {_FIRST_LOG_KEYS.get(key, key): value for key, value in log.items()}
        if not isinstance(log, dict) or not log.keys() >= _LOG_KEYS:
            raise ValueError(f"it needs {', '.join(sorted(_LOG_KEYS))}")
        if type(log["num_reads"]) is not int:
            raise ValueError("num_reads must be an integer")
    except (OSError, ValueError) as error:
        raise LimbeckError(
            f"{path} is damaged, so it is unknown whether the test split was read: start a new run"
        ) from error
    return log
