"""The dashboard serves the runs of its folder, on localhost only, and nothing else for any request."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.dashboard import serve
from limbeck.dashboard.run_index import list_runs, read_phases
from limbeck.report import write_report

pytest.importorskip("starlette")
from limbeck.dashboard.app import create_app

LONG_AGO = time.time() - 10_000


def ask(app, path, *, method="GET", host="127.0.0.1:8642", headers=()):
    """One request; the path is sent unchanged, without normalization by a client."""
    sent, raw = [], path.encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": urllib.request.unquote(path), "raw_path": raw, "query_string": b"", "root_path": "",
        "headers": [(b"host", host.encode()), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8642),
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return SimpleNamespace(status=sent[0]["status"], headers=headers, text=body.decode())


def old(folder):
    """As if nothing had touched it for hours."""
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def started(studies, folder, *, phase="baseline", recipe="name: r\nstages: [{name: s, steps: 300}]\n"):
    """A run on its way."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe)
    studies.write_metrics_csv(folder / "metrics.csv", {phase: 0.8}, steps=120, epochs=4)
    return folder


@pytest.fixture(scope="module")
def root(studies, tmp_path_factory):
    home = tmp_path_factory.mktemp("board")
    root = home / "runs"
    old(studies.write_run(root / "done", 0))
    studies.write_run(root / "deep" / "er" / "still done", 1)
    started(studies, root / "live")
    old(started(studies, root / "gone"))
    studies.write_study(root / "study", seeds=(0, 1), unfinished=[("distilled", 1)])
    (root / "notes.txt").write_text("a secret of the folder")
    (home / "outside.txt").write_text("a secret of the machine")
    studies.write_run(home / "outside", 0, name="secret")
    (root / "link").symlink_to(home / "outside")
    (root / "loop").symlink_to(root)
    mixed = started(studies, root / "mixed")
    (mixed / "record.json").symlink_to(home / "outside" / "record.json")
    return root


@pytest.fixture(scope="module")
def app(root):
    return create_app(root)


def test_index_names_runs_and_studies_the_newest_first_and_nothing_else(app, root):
    runs = list_runs(root)
    assert set(runs) == {"done", "deep/er/still done", "live", "gone", "study"}
    assert list(runs)[-2:] in (["done", "gone"], ["gone", "done"])
    states = {place: entry.state for place, entry in runs.items()}
    assert states == {
        "done": "finished", "deep/er/still done": "finished", "live": "running", "gone": "stopped", "study": "running",
    }  # fmt: skip
    text = ask(app, "/").text
    assert "11 of 12 trials" in text
    assert "baseline, step 120 of 300" in text
    assert 'href="/at/deep/er/still%20done"' in text
    rows = text.partition("<tbody>")[2].partition("</tbody>")[0]
    assert not any(word in rows for word in ("secret", "notes", "mixed", "link", "loop"))
    assert str(root.parent) not in text


def test_each_run_and_study_has_its_page(app, root):
    report = ask(app, "/at/done")
    assert report.status == 200
    assert "<h2>Comparison</h2>" in report.text
    assert "refresh" not in report.headers
    assert not (root / "done" / "report.html").exists()  # nothing is ever written
    assert "<h2>Variants</h2>" in ask(app, "/at/study").text
    live = ask(app, "/at/live")
    assert "120 of 300" in live.text
    assert "Validation accuracy by step" in live.text
    assert live.headers["refresh"] == "5"
    assert "--resume" in ask(app, "/at/gone").text
    assert ask(app, "/at/deep/er/still%20done").status == 200


def test_a_written_report_is_served_unchanged(app, root):
    (root / "done" / "report.html").write_text("<!doctype html><p>mine</p>")
    try:
        assert ask(app, "/at/done").text == "<!doctype html><p>mine</p>"
    finally:
        (root / "done" / "report.html").unlink()


@pytest.mark.parametrize(
    "path",
    [
        "/at/../outside.txt", "/at/..%2foutside.txt", "/at/%2e%2e/outside", "/at/%2e%2e%2foutside", "/../outside.txt",
        "/at//etc/passwd", "/at/%2fetc%2fpasswd", "/at/done/../../outside", "/at/link", "/at/link/", "/at/mixed",
        "/at/loop/done", "/at/notes.txt", "/at/done/record.json", "/at/done%00", "/at/study/trials/student_only/0",
        "/notes.txt",
        "/at/..\\outside", "/at/done/.", "/at/" + "a" * 5000, "/at/%ff%fe", "/at", "/favicon.ico",
    ],
)  # fmt: skip
def test_no_address_leads_out_of_what_is_listed(app, path):
    got = ask(app, path)
    assert got.status in (404, 307)
    assert "secret" not in got.text
    assert "passwd" not in got.text
    if got.status == 404:
        assert "There is no run or study of this name" in got.text


def test_a_trial_that_links_out_of_the_folder_hides_its_study(studies, tmp_path):
    outside = studies.write_run(tmp_path / "outside", 0)
    folder = studies.write_study(tmp_path / "runs" / "S", seeds=(0,), unfinished=[(n, 0) for n in studies.VARIANTS])
    assert set(list_runs(tmp_path / "runs")) == {"S"}
    trial = folder / "trials" / "student_only" / "0"
    trial.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(trial, ignore_errors=True)
    trial.symlink_to(outside)
    assert list_runs(tmp_path / "runs") == {}


def test_only_reading_is_answered(app):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        got = ask(app, "/", method=method)
        assert got.status == 405
        assert got.headers["allow"] == "GET, HEAD"
    head = ask(app, "/at/done", method="HEAD")
    assert head.status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "192.168.0.7", ""])
def test_another_name_for_this_machine_is_refused(app, host):
    got = ask(app, "/", host=host)
    assert got.status == 400
    assert "Runs" not in got.text


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:8642", "localhost"])
def test_local_host_names_are_accepted(app, host):
    assert ask(app, "/", host=host).status == 200


def test_every_answer_forbids_the_browser_everything_else(app):
    for got in (ask(app, "/"), ask(app, "/at/study"), ask(app, "/at/nothing"), ask(app, "/", method="POST")):
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src 'sha256-" in policy
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cross-origin-resource-policy"] == "same-origin"
        assert got.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in got.headers


def test_a_recipe_next_to_the_runs_is_no_run(studies, tmp_path):
    studies.write_run(tmp_path / "runs" / "good", 0)
    (tmp_path / "recipe.yaml").write_text("stages: [{steps: 3}]")
    assert list(list_runs(tmp_path)) == ["runs/good"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("record.json", '{"schema": 1, "na'), ("record.json", "[]"), ("record.json", '{"schema": 1, "models": 3}'),
        ("record.json", '{"schema": 1, "name": "x", "models": {}}'), ("record.json", "\x00"), ("study.json", "{"),
        ("study.json", '{"schema": 2, "kind": "study", "variants": {}, "trials": []}'), ("recipe.yaml", "a: [b"),
        ("recipe.yaml", "stages: 7\nteachers: [1]"), ("metrics.csv", "phase,step\nbaseline,"),
        ("metrics.csv", "what\n1"),
        ("metrics.csv", "phase,step,val/accuracy\nbaseline,nan,x\n,3,0.5"), ("metrics.csv", ""),
        ("metrics.csv", b"\xff\xfe\x00"),
    ],
)  # fmt: skip
def test_a_half_written_file_never_stops_the_dashboard(studies, tmp_path, name, text):
    folder = started(studies, tmp_path / "runs" / "r")
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    app = create_app(tmp_path / "runs")
    index, page = ask(app, "/"), ask(app, "/at/r")
    assert (index.status, page.status) == (200, 200)
    assert page.text.rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("record.json", "[" * 100_000), ("record.json", "{" + '"a": {' * 500 + "}" * 501), ("record.json", "1e999"),
        ("record.json", "!!python/object/apply:os.system [x]"),
        ("metrics.csv", "phase,step\nbaseline," + "x" * 200_000),
        ("metrics.csv", "!!python/object:x {}\n1"), ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", "phase,step,stage\nbaseline,1e308,a\nbaseline,1e308,b\nbaseline,1e308,c"),
        ("recipe.yaml", "stages: [{steps: .inf}]"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_one_row_that_says_so(studies, tmp_path, name, text):
    studies.write_run(tmp_path / "runs" / "good", 0)
    folder = started(studies, tmp_path / "runs" / "bad")
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    app = create_app(tmp_path / "runs")
    index = ask(app, "/")
    assert index.status == 200
    states = {path: entry.state for path, entry in list_runs(tmp_path / "runs").items()}
    assert states == {"good": "finished", "bad": "damaged"}
    assert '<td class="state failed" data-v="damaged">damaged</td>' in index.text
    assert str(tmp_path) not in index.text
    assert ask(app, "/at/bad").status == 200


def test_odd_names_and_times_are_rows_too(studies, tmp_path):
    folder = started(studies, tmp_path / "runs" / "future")
    os.utime(folder / "metrics.csv", ns=(2**62, 2**62))
    Path(os.fsdecode(os.fsencode(tmp_path / "runs") + b"/caf\xe9")).mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "runs") + b"/caf\xe9/record.json")).write_text("{}")
    app = create_app(tmp_path / "runs")
    text = ask(app, "/").text
    assert "the name of its folder is not UTF-8" in text
    assert "future" in text
    assert ask(app, "/at/caf%EF%BF%BD").status == 200


def test_what_has_not_changed_is_read_once(studies, tmp_path, monkeypatch):
    from limbeck.dashboard import run_index

    folders = [started(studies, tmp_path / name) for name in "ab"]
    studies.write_run(tmp_path / "done", 0)
    reads = []
    read_content = run_index._read_content
    monkeypatch.setattr(run_index, "_read_content", lambda folder: reads.append(folder.name) or read_content(folder))
    index = run_index.RunIndex(tmp_path)
    first = index.read()
    assert index.read() == first
    assert sorted(reads) == ["a", "b", "done"]
    studies.write_metrics_csv(folders[0] / "metrics.csv", {"baseline": 0.8}, steps=240, epochs=8)
    assert index.read()["a"].phase.step == 240
    assert sorted(reads) == ["a", "a", "b", "done"]
    shutil.rmtree(folders[1])
    assert set(index.read()) == {"a", "done"}


def test_requests_that_wait_share_one_search(studies, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    from limbeck.dashboard import run_index

    started(studies, tmp_path / "a")
    index, began, release, searches, ticks = run_index.RunIndex(tmp_path), Event(), Event(), [], []
    search, clock = run_index.RunIndex._search, index._clock

    def count_tick(tick):
        ticks.append(tick)
        return tick

    index._clock = map(count_tick, clock)  # a generator could not be used by several threads

    def slow_search(self):
        searches.append(1)
        began.set()
        assert release.wait(60)
        return search(self)

    monkeypatch.setattr(run_index.RunIndex, "_search", slow_search)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(index.read)
        assert began.wait(60)
        others = [pool.submit(index.read) for _ in range(19)]
        while len(ticks) < 2 + 19:  # every request has arrived
            time.sleep(0.01)
        release.set()
        results = [future.result(60) for future in others]
    assert len(searches) == 2
    assert first.result() is not results[0]
    assert all(result is results[0] for result in results)


def test_names_are_words_and_links_are_whole(studies, tmp_path):
    name = "<b>&amp; 'x' \"y\" %2e ?a#b é"
    studies.write_run(tmp_path / name, 0)
    app = create_app(tmp_path)
    text = ask(app, "/").text
    assert "<b>" not in text.partition("<tbody>")[2].partition("</tbody>")[0]
    link = text.partition('href="/at/')[2].partition('"')[0]
    assert ask(app, f"/at/{link}").status == 200


def test_the_folder_itself_may_be_a_study(studies, tmp_path):
    studies.write_study(tmp_path / "S", seeds=(0,))
    app = create_app(tmp_path / "S")
    assert 'href="/at/"' in ask(app, "/").text
    assert "<h2>Variants</h2>" in ask(app, "/at/").text


def test_a_trial_without_its_study_has_a_page_as_well(studies, tmp_path):
    studies.write_study(tmp_path / "S", seeds=(0,))
    (tmp_path / "S" / "study.json").rename(tmp_path / "elsewhere.json")
    got = ask(create_app(tmp_path / "S"), "/at/trials/student_only/0")
    assert (got.status, "<h2>Variants</h2>" in got.text) == (200, True)
    with pytest.raises(LimbeckError, match="a trial of the study digits-study"):
        write_report(tmp_path / "S" / "trials" / "student_only" / "0")


def test_a_page_is_drawn_again_once_its_files_change(studies, tmp_path):
    folder = started(studies, tmp_path / "r")
    app = create_app(tmp_path)
    assert "120 of 300" in ask(app, "/at/r").text
    studies.write_metrics_csv(folder / "metrics.csv", {"baseline": 0.8}, steps=240, epochs=8)
    assert "240 of 300" in ask(app, "/at/r").text


def test_progress_in_epochs_and_of_a_teacher_is_shown(studies, tmp_path):
    recipe = "teachers: {big: {use: mlp}}\nteacher_training: {epochs: 8}\nstages: [{steps: 100}, {steps: 50}]\n"
    folder = started(studies, tmp_path / "r", phase="big", recipe=recipe)
    (phase,) = read_phases(folder)
    assert (phase.name, phase.step, phase.total_steps) == (
        "big",
        120,
        240,
    )  # 4 epochs are 120 steps, and 8 are requested
    assert phase.fraction == 0.5


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux lists its locks")
def test_a_run_that_holds_its_lock_runs_however_long_an_epoch_takes(studies, tmp_path):
    import fcntl

    folder = started(studies, tmp_path / "r")
    with (folder / ".lock").open("w") as lock:
        old(tmp_path)
        assert list_runs(tmp_path)["r"].state == "stopped"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list_runs(tmp_path)["r"].state == "running"


def test_failed_is_a_study_with_a_failed_trial_and_nothing_left(studies, tmp_path):
    folder = studies.write_study(tmp_path / "S", seeds=(0,), failed=[("label_smoothing", 0)])
    assert list_runs(tmp_path)["S"].state == "failed"
    study = json.loads((folder / "study.json").read_text())
    study["trials"][-1]["state"] = "running"
    (folder / "study.json").write_text(json.dumps(study))
    assert list_runs(tmp_path)["S"].state == "running"


def test_the_command_binds_to_localhost_only_and_ctrl_c_ends_it_quietly(studies, tmp_path, fork_python):
    studies.write_run(tmp_path / "r", 0)
    board = fork_python("dashboard", tmp_path, "--port", "0")
    try:
        while not (line := board.read_output()[0]).endswith("\n"):
            assert board.poll() is None, board.read_output()
            time.sleep(0.01)
        address = line.split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=600) as got:
            assert "Runs and studies" in got.read().decode()
            assert got.headers["server"] is None
        if sys.platform == "linux":
            port = int(address.rstrip("/").rpartition(":")[2])
            doors = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            assert f"0100007F:{port:04X}" in doors
            assert f"00000000:{port:04X}" not in doors
        board.send_signal(signal.SIGINT)
        out, err = board.communicate()
    finally:
        board.kill()
    assert (board.returncode, out, err) == (0, line, "")


def test_mistakes_are_one_sentence(tmp_path, capsys, monkeypatch):
    assert main(["dashboard", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["dashboard", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --port" in capsys.readouterr().err
    assert main(["dashboard", str(tmp_path), "--port", "70000"]) == 2
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[dashboard\]'"):
        serve(tmp_path)
