"""An inference server as teacher: failed requests are repeated, and each error is one sentence."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, inference_server

X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def softmax(x):
    x = np.stack([x[:, 0], x[:, 1], x[:, 0] * 0], axis=1).astype(np.float64)
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def infer_response(request):
    """What a server of the protocol says."""
    (given,) = request["inputs"]
    assert given["datatype"] == "FP32"
    x = np.array(given["data"], dtype=np.float32).reshape(given["shape"])
    output = {"name": "probabilities", "datatype": "FP32", "shape": [len(x), 3], "data": softmax(x).ravel().tolist()}
    return {"model_name": "cats", "outputs": [output]}


def send_response(handler, content, status=200, headers=()):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in (("Content-Length", str(len(content))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def server():
    """Starts a server with scripted responses; returns its address and the received requests."""
    running = []

    def start(behave):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, request))
                behave(self, request, len(seen))

            def log_message(self, *words):
                pass

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(made)
        return f"http://127.0.0.1:{made.server_port}", seen

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


def good(handler, request, turn):
    send_response(handler, infer_response(request))


def test_probabilities_from_a_server_are_log_probabilities_of_the_rows(server):
    url, seen = server(good)
    logits = (
        FrozenTeacher(inference_server(url, "cats", input_name="pictures"))
        .predict((X, None), Classification(3))
        .require_logits()
    )
    np.testing.assert_allclose(logits.numpy(), np.log(softmax(X.numpy())), rtol=1e-5)
    assert seen[0][0] == "/v2/models/cats/infer"
    assert seen[0][1]["inputs"][0] | {"data": []} == {
        "name": "pictures", "shape": [5, 2], "datatype": "FP32", "data": [],
    }  # fmt: skip


def test_version_output_and_rows_are_requested_by_the_protocol(server):
    url, seen = server(good)
    logits = inference_server(url + "/", "a/b", version="3", output_name="probabilities", batch_size=2)(X)
    assert logits.shape == (5, 3)
    assert [path for path, _ in seen] == ["/v2/models/a%2Fb/versions/3/infer"] * 3
    assert [request["inputs"][0]["shape"][0] for _, request in seen] == [2, 2, 1]
    assert seen[0][1]["outputs"] == [{"name": "probabilities"}]


def test_a_failed_request_is_repeated(server):
    def behave(handler, request, turn):
        send_response(handler, b"busy", 503) if turn <= 2 else good(handler, request, turn)

    url, seen = server(behave)
    assert inference_server(url, "cats")(X).shape == (5, 3)
    assert len(seen) == 3


def test_a_server_that_stays_broken_is_given_up_with_its_status(server):
    url, seen = server(lambda handler, request, turn: send_response(handler, b"out of\nmemory", 500))
    with pytest.raises(LimbeckError, match=r"responded with status 500 \('out of memory'\)"):
        inference_server(url, "cats", retries=1)(X)
    assert len(seen) == 2


def test_a_mistake_in_the_request_is_not_repeated(server):
    url, seen = server(lambda handler, request, turn: send_response(handler, {"error": "no model dogs"}, 404))
    with pytest.raises(LimbeckError, match=r"status 404 .*no model dogs"):
        inference_server(url, "dogs")(X)
    assert len(seen) == 1


def test_a_server_that_hangs_is_left_when_the_time_is_over(server):
    url, _ = server(lambda handler, request, turn: time.sleep(1))
    begun = time.monotonic()
    with pytest.raises(LimbeckError, match=r"timed out after 0.2 s \(1 attempt\)"):
        inference_server(url, "cats", timeout=0.2, retries=0)(X)
    assert time.monotonic() - begun < 0.9


def test_a_missing_server_is_reported():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LimbeckError, match=r"no server at .*/v2/models/cats/infer \(2 attempts\)"):
        inference_server(f"http://127.0.0.1:{port}", "cats", retries=1)(X)


@pytest.mark.parametrize("where", ["file:///etc/passwd", "http://127.0.0.1:1/other"])
def test_no_redirect_is_followed(server, where):
    url, seen = server(lambda handler, request, turn: send_response(handler, b"", 307, [("Location", where)]))
    with pytest.raises(LimbeckError, match="redirects are not followed"):
        inference_server(url, "cats")(X)
    assert len(seen) == 1


PROBABLE = {"name": "p", "shape": [5, 3], "data": [1 / 3] * 15}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<html>hello</html>", "must respond by the Open Inference Protocol, got '<html>hello"),
        (b"\x80\x04K\x01.", "must respond by the Open Inference Protocol"),
        (b"[1, 2]", "must respond by the Open Inference Protocol"),
        ({"outputs": []}, "returned the outputs none: set output_name"),
        ({"outputs": [PROBABLE, PROBABLE | {"name": "q"}]}, "returned the outputs p, q: set output_name"),
        ({"outputs": [PROBABLE | {"shape": [5, 4]}]}, r"data that do not match their shape \[5, 4\]"),
        ({"outputs": [PROBABLE | {"data": ["cat"] * 15}]}, "data that do not match their shape"),
        ({"outputs": [{"name": "p", "shape": [5, 3]}]}, "data that do not match their shape"),
        ({"outputs": [PROBABLE | {"shape": [3, 5]}]}, r"must return the shape \[5, classes\], got \[3, 5\]"),
        ({"outputs": [PROBABLE | {"data": [float("nan")] * 15}]}, "returned NaN or infinity"),
        ({"outputs": [PROBABLE | {"data": [7.0] * 15}]}, r"must return probabilities, got a row with sum 21"),
    ],
)
def test_an_invalid_response_is_one_sentence(server, content, sentence):
    url, _ = server(lambda handler, request, turn: send_response(handler, content))
    with pytest.raises(LimbeckError, match=sentence) as caught:
        inference_server(url, "cats")(X)
    assert len(str(caught.value).splitlines()) == 1


def test_a_broken_connection_is_retried(server):
    def behave(handler, request, turn):
        if turn == 1:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            good(handler, request, turn)

    url, seen = server(behave)
    assert inference_server(url, "cats")(X).shape == (5, 3)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("url", "settings", "sentence"),
    [
        ("ftp://host", {}, "must be the http:// or https:// address of a server"),
        ("host:8000", {}, "must be the http:// or https:// address of a server"),
        ("http://user:secret@host", {}, "must not hold a password"),
        ("http://host", {"timeout": 0.0}, "timeout must be above 0"),
        ("http://host", {"batch_size": 0}, "batch_size at least 1"),
    ],
)
def test_an_invalid_setting_is_refused_before_any_request(url, settings, sentence):
    with pytest.raises(LimbeckError, match=sentence) as caught:
        inference_server(url, "cats", **settings)
    assert "secret" not in str(caught.value)


def test_an_endpoint_survives_pickle(server):
    url, _ = server(good)
    other = pickle.loads(pickle.dumps(inference_server(url, "cats")))
    assert other(X).shape == (5, 3)
