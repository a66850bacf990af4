"""A server as a teacher, by the Open Inference Protocol, version 2, JSON over HTTP.

Triton, OpenVINO Model Server, KServe and MLServer speak it: https://github.com/kserve/open-inference-protocol. Requests
are made by urllib3 (https://urllib3.readthedocs.io), which tries again after a growing pause.
"""

from __future__ import annotations

import json
from typing import Any, final
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError, reason
from limbeck.data import Normalization
from limbeck.teachers.external.external_teacher import Foreign, Returns, Sees

__all__ = ["endpoint"]

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_PAUSE = 0.2
_LONGEST_PAUSE = 20.0


def endpoint(
    url: str, model: str, *, version: str | None = None, input: str = "input", output: str | None = None,
    returns: Returns = "probabilities", sees: Sees = "normalised", normalization: Normalization | None = None,
    timeout: float = 10.0, retries: int = 4, rows: int = 256, classes: int | None = None,
) -> Foreign:  # fmt: skip
    """A teacher that a server answers for: ``POST url/v2/models/model/infer``.

    Args:
        url: where the server is, ``http://`` or ``https://``; redirects are not followed.
        model: the name of the model there.
        version: its version; ``None``: whichever the server takes.
        input: the name of the model's input.
        output: the name of the output to read; ``None``: its only one.
        returns: ``probabilities`` or ``logits``.
        sees: ``normalised`` inputs or ``pixels`` in 0..1.
        normalization: of the data; needed in Python for one that sees pixels.
        timeout: seconds to wait for a connection, and then for the answer.
        retries: how often to try again, after 0.2 s, 0.4 s, 0.8 s … up to 20 s, when the server is not there, is too
            slow, or says that it is busy or broken for now (408, 425, 429, 500, 502, 503, 504).
        rows: the most inputs in one request.
        classes: how many there are.

    The answer raises ``LimbeckError``, in one sentence, for a server that is not there, a time-out, another status than
    200, an answer that is no JSON, and one of another shape.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise LimbeckError(f"an endpoint is the http:// or https:// address of a server, not {url!r}")
    if parts.username or parts.password:
        raise LimbeckError("an endpoint's address holds no password, as it is written into the record: leave it out")
    if timeout <= 0 or retries < 0 or rows < 1:
        raise LimbeckError(
            f"an endpoint takes timeout above 0, retries of at least 0 and rows of at least 1, not {timeout}, "
            f"{retries}, {rows}"
        )
    where = f"/versions/{quote(version, safe='')}" if version else ""
    address = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}{where}/infer"
    ask = _Ask(address, input=input, output=output, timeout=timeout, retries=retries, rows=rows)
    return Foreign(
        ask, called=f"the endpoint {address}", identity=f"{address} {input} {output}", returns=returns, sees=sees,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
class _Ask:
    """Sends inputs to one address and reads what comes back."""

    def __init__(
        self, address: str, *, input: str, output: str | None, timeout: float, retries: int, rows: int
    ) -> None:
        self.address, self.input, self.output = address, input, output
        self.timeout, self.retries, self.rows = timeout, retries, rows
        self._pool = self._opened()

    def __call__(self, input: Tensor) -> NDArray[np.float32]:
        """The answer to ``[n, ...]`` inputs, ``[n, classes]``."""
        return np.concatenate([self._asked(part.numpy()) for part in torch.split(input, self.rows)])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = self._opened()

    def _opened(self) -> Any:
        try:
            from urllib3 import PoolManager, Retry, Timeout
        except ImportError as error:
            raise LimbeckError(
                "an endpoint needs urllib3, which is not installed: pip install limbeck[endpoint]"
            ) from (error)
        again = Retry(
            total=self.retries, status_forcelist=_AGAIN, allowed_methods=None, backoff_factor=_PAUSE,
            backoff_max=_LONGEST_PAUSE, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        return PoolManager(retries=again, timeout=Timeout(connect=self.timeout, read=self.timeout))

    def _asked(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = {"name": self.input, "shape": inputs.shape, "datatype": "FP32", "data": inputs.ravel().tolist()}
        asked: dict[str, Any] = {"inputs": [tensor]}
        if self.output is not None:
            asked["outputs"] = [{"name": self.output}]
        return self._read(self._posted(json.dumps(asked).encode()), rows=len(inputs))

    def _posted(self, body: bytes) -> bytes:
        from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, TimeoutError

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            response = self._pool.request("POST", self.address, body=body, headers=headers, redirect=False)
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
            tries = f"{self.retries + 1} tries" if self.retries else "one try"
            if isinstance(cause, NewConnectionError):
                raise LimbeckError(f"no server answers at {self.address} ({tries}): is it running there?") from error
            if isinstance(cause, TimeoutError):
                raise LimbeckError(
                    f"{self.address} did not answer within {self.timeout:g} s ({tries}): give it a longer timeout, or "
                    "fewer rows at once"
                ) from error
            raise LimbeckError(f"{self.address} could not be asked ({tries}; {reason(cause)})") from error
        if 300 <= response.status < 400:
            raise LimbeckError(
                f"{self.address} sends on to {response.headers.get('Location')!r}, and limbeck follows no redirect: "
                "give that address, if you trust it"
            )
        if response.status != 200:
            said = " ".join(response.data[:300].decode("utf-8", "replace").split())
            raise LimbeckError(f"{self.address} answered with the status {response.status} ({said[:160]!r})")
        data: bytes = response.data
        return data

    def _read(self, answer: bytes, *, rows: int) -> NDArray[np.float32]:
        try:
            outputs = {str(one["name"]): one for one in json.loads(answer)["outputs"]}
        except (ValueError, KeyError, TypeError) as error:
            start = answer[:60].decode("utf-8", "replace")
            raise LimbeckError(
                f"{self.address} gave no answer of the Open Inference Protocol, but {start!r}"
            ) from error
        if self.output not in outputs if self.output is not None else len(outputs) != 1:
            raise LimbeckError(
                f"{self.address} gave the outputs {', '.join(outputs) or 'none'}: set output to the name of the one "
                "to read"
            )
        one = outputs[self.output] if self.output is not None else next(iter(outputs.values()))
        try:
            found = np.asarray(one["data"], dtype=np.float32).reshape([int(size) for size in one["shape"]])
        except (ValueError, KeyError, TypeError) as error:
            raise LimbeckError(
                f"{self.address} gave an output whose data are not the numbers of its shape {one.get('shape')}"
            ) from error
        if found.ndim != 2 or len(found) != rows:
            raise LimbeckError(f"{self.address} gave the shape {list(found.shape)} for {rows} inputs: it has to be "
                               f"[{rows}, classes]")  # fmt: skip
        return found
