"""Inference servers as teachers, by the Open Inference Protocol version 2, JSON over HTTP.

Triton, OpenVINO Model Server, KServe and MLServer implement it: https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.normalization import Normalization
from limbeck.teachers.external.external_teacher import ExternalTeacher, InputType, OutputType
from limbeck.utils.io import parse_json

__all__ = ["inference_server"]

_RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 20.0


def inference_server(
    url: str, model: str, *, version: str | None = None, input_name: str = "input", output_name: str | None = None,
    output_type: OutputType = "probabilities", input_type: InputType = "normalized",
    normalization: Normalization | None = None, timeout: float = 10.0, retries: int = 4, batch_size: int = 256,
    classes: int | None = None,
) -> ExternalTeacher:  # fmt: skip
    """A teacher that predicts by ``POST url/v2/models/model/infer``.

    Args:
        url: address of the server, ``http://`` or ``https://``; redirects are not followed.
        model: name of the model.
        version: version of the model; ``None``: the server's default.
        input_name: name of the model's input.
        output_name: name of the output to read; ``None``: the only one.
        output_type: ``probabilities`` or ``logits``.
        input_type: ``normalized`` inputs, or ``pixels`` in 0..1.
        normalization: normalization of the data, needed for ``pixels``; a recipe sets it.
        timeout: seconds to wait for a connection, and for a response.
        retries: number of retries, after 0.2 s, 0.4 s, 0.8 s … up to 20 s, when the server is unreachable or too
            slow, or responds with status 408, 425, 429, 500, 502, 503 or 504.
        batch_size: largest number of inputs in one request.
        classes: expected number of classes.

    Raises:
        LimbeckError: a setting is invalid; when called, the server is unreachable or too slow, or its response has
            another status than 200, is no JSON of the protocol, or has another shape.
    """
    url_parts = urlsplit(url)
    if url_parts.scheme not in ("http", "https") or not url_parts.hostname or url_parts.query or url_parts.fragment:
        raise LimbeckError(f"url must be the http:// or https:// address of a server, got {url!r}")
    if url_parts.username or url_parts.password:
        raise LimbeckError("url must not hold a password, since it is written to the record: remove it")
    if timeout <= 0 or retries < 0 or batch_size < 1:
        values = f"{timeout}, {retries}, {batch_size}"
        raise LimbeckError(f"timeout must be above 0, retries at least 0 and batch_size at least 1, got {values}")
    version_path = f"/versions/{quote(version, safe='')}" if version else ""
    address = f"{url.rstrip('/')}/v2/models/{quote(model, safe='')}{version_path}/infer"
    return ExternalTeacher(
        _InferenceClient(address, input_name, output_name, timeout, retries, batch_size), name=f"the server {address}",
        fingerprint=f"{address} {input_name} {output_name}", output_type=output_type, input_type=input_type,
        normalization=normalization, classes=classes,
    )  # fmt: skip


@final
@dataclass
class _InferenceClient:
    """Sends requests to one model of a server."""

    address: str
    input_name: str
    output_name: str | None
    timeout: float
    retries: int
    batch_size: int

    def __post_init__(self) -> None:
        try:
            from urllib3 import PoolManager, Retry, Timeout
        except ImportError as error:
            raise LimbeckError("inference_server needs urllib3: pip install limbeck[endpoint]") from error
        retry = Retry(
            total=self.retries, status_forcelist=_RETRY_STATUSES, allowed_methods=None, backoff_factor=_BACKOFF_SECONDS,
            backoff_max=_MAX_BACKOFF_SECONDS, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        self._pool = PoolManager(retries=retry, timeout=Timeout(connect=self.timeout, read=self.timeout))

    def __call__(self, *inputs: Tensor, **named_inputs: Tensor) -> NDArray[np.float32]:
        """Outputs ``[n, classes]`` for one input ``[n, ...]``."""
        if len(inputs) != 1 or named_inputs:
            count = len(inputs) + len(named_inputs)
            raise LimbeckError(
                f"the server {self.address} takes one input, and the task gives {count}: use from_callable"
            )
        input = inputs[0]
        return np.concatenate([self._infer(chunk.numpy()) for chunk in torch.split(input, self.batch_size)])

    def __reduce__(self) -> tuple[Any, ...]:  # a connection pool cannot be pickled
        arguments = (self.address, self.input_name, self.output_name, self.timeout, self.retries, self.batch_size)
        return _InferenceClient, arguments

    def _infer(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = {"name": self.input_name, "shape": inputs.shape, "datatype": "FP32", "data": inputs.ravel().tolist()}
        request: dict[str, Any] = {"inputs": [tensor]}
        if self.output_name is not None:
            request["outputs"] = [{"name": self.output_name}]
        return self._parse_response(self._post(json.dumps(request).encode()), num_rows=len(inputs))

    def _post(self, body: bytes) -> bytes:
        from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, TimeoutError

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            response = self._pool.request("POST", self.address, body=body, headers=headers, redirect=False)
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
            attempts = f"{self.retries + 1} attempt{'s' if self.retries else ''}"
            if isinstance(cause, NewConnectionError):
                reason = f"no server at {self.address} ({attempts}): check that it is running"
            elif isinstance(cause, TimeoutError):
                remedy = "set a longer timeout or a smaller batch_size"
                reason = f"{self.address} timed out after {self.timeout:g} s ({attempts}): {remedy}"
            else:
                reason = f"{self.address} failed ({attempts}; {format_root_cause(cause)})"
            raise LimbeckError(reason) from error
        if 300 <= response.status < 400:
            raise LimbeckError(
                f"{self.address} redirects to {response.headers.get('Location')!r}, and redirects are not followed: "
                "set url to that address if you trust it"
            )
        if response.status != 200:
            response_text = " ".join(response.data[:300].decode("utf-8", "replace").split())
            raise LimbeckError(f"{self.address} responded with status {response.status} ({response_text[:160]!r})")
        data: bytes = response.data
        return data

    def _parse_response(self, response: bytes, *, num_rows: int) -> NDArray[np.float32]:
        try:
            outputs = {str(output["name"]): output for output in parse_json(response)["outputs"]}
        except (ValueError, KeyError, TypeError) as error:
            prefix = response[:60].decode("utf-8", "replace")
            raise LimbeckError(f"{self.address} must respond by the Open Inference Protocol, got {prefix!r}") from error
        name = next(iter(outputs)) if self.output_name is None and len(outputs) == 1 else self.output_name
        if name not in outputs:
            names = ", ".join(outputs) or "none"
            raise LimbeckError(f"{self.address} returned the outputs {names}: set output_name to one of them")
        output = outputs[name]
        try:
            array = np.asarray(output["data"], dtype=np.float32).reshape([int(size) for size in output["shape"]])
        except (ValueError, KeyError, TypeError) as error:
            shape = output.get("shape")
            raise LimbeckError(f"{self.address} returned data that do not match their shape {shape}") from error
        if array.ndim != 2 or len(array) != num_rows:
            raise LimbeckError(f"{self.address} must return the shape [{num_rows}, classes], got {list(array.shape)}")
        return array
