"""The comparison and the dashboard in Chromium: quiet, offline, as wide as the window, sorted by a click, and live."""

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from limbeck.dashboard.app import create_app, open_socket, render_index, render_not_found, render_page
from limbeck.dashboard.run_index import list_runs
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.workflows.compare.run import build_comparison

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: no chromium or google-chrome on PATH"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--v=0",
    "--window-size=1400,900", "--dump-dom",
)  # fmt: skip
LONG = "a_variant_with_a_name_that_has_no_place_to_break_" * 3
# Beside a copy of the page, in frames of the wanted widths: what it is like there, before and after a click.
PROBE = """<script>
const errors = [];
addEventListener('error', e => errors.push(String(e.message || e.target.src || e.target.href)), true);
addEventListener('load', () => { const root = document.documentElement, column = name =>
    [...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(row => row.cells[name].dataset.v ?? '');
  const head = document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[2];
  const before = column(2); head.querySelector('button').click(); const down = column(2);
  head.querySelector('button').click(); const up = column(2);
  parent.postMessage({ name: window.name, errors, client: root.clientWidth, scroll: root.scrollWidth, before, down, up,
    sorted: head.getAttribute('aria-sort'), paper: getComputedStyle(document.body).backgroundColor,
    dark: matchMedia('(prefers-color-scheme: dark)').matches,
    asked: performance.getEntriesByType('resource').map(r => r.name)
      .filter(name => !name.startsWith('data:')) }, '*'); });
</script>"""
HOST = """<!doctype html><body><script>
const out = [];
addEventListener('message', e => { out.push(e.data); document.body.dataset.out = JSON.stringify(out); });
for (const [name, width, page] of PAGES) { const frame = document.createElement('iframe');
  frame.name = name; frame.width = width; frame.height = 900; frame.srcdoc = page; document.body.append(frame); }
</script>"""


def chromium(address, profile, *more, budget=3000):
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--virtual-time-budget={budget}", *more, f"--user-data-dir={profile}", address],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@contextlib.contextmanager
def serving(app):
    """An ASGI application at an address of its own, in a thread; gives the address and the paths it was asked for."""
    import uvicorn

    asked = []

    async def counted(scope, receive, send):
        asked.append(scope["path"])
        await app(scope, receive, send)

    with open_socket(0) as door:
        server = uvicorn.Server(uvicorn.Config(counted, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=lambda: server.run(sockets=[door]))
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}", asked
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def study(studies, tmp_path_factory):
    variants = {**studies.VARIANTS, LONG: 0.7}
    return studies.write_study(
        tmp_path_factory.mktemp("browser") / "S",
        seeds=(0, 1),
        variants=variants,
        unfinished=[("wide_tau", 0), ("wide_tau", 1)],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparison_fits_phone_and_desk_and_sorts(study, tmp_path, scheme):
    text = render_compare_page(build_comparison([study]))
    copy = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("<head>", f"<head>{PROBE}")
    copy = copy.replace("<details>", "<details open>")
    pages = [(str(width), width, copy) for width in (390, 1280)]
    host = tmp_path / "host.html"
    host.write_text(HOST.replace("PAGES", json.dumps(pages).replace("</", "<\\/")))
    dom, _ = chromium(
        host.as_uri(), tmp_path / "profile", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    )
    result = {one["name"]: one for one in json.loads(html.unescape(re.search(r'data-out="([^"]*)"', dom)[1]))}
    for width in (390, 1280):
        one = result[str(width)]
        assert one["errors"] == one["asked"] == []
        assert one["scroll"] == one["client"] == width
        known = sorted(float(value) for value in one["before"] if value)
        assert [float(value) for value in one["down"] if value] == known[::-1]
        assert [float(value) for value in one["up"] if value] == known
        assert one["down"][-1] == one["up"][-1] == ""  # no figure yet: last, whichever way
        assert one["sorted"] == "ascending"
        assert one["dark"] == (scheme == "dark")
        light = sum(map(int, re.findall(r"\d+", one["paper"])[:3])) > 3 * 128
        assert light == (scheme == "light")


def test_console_is_silent_and_only_our_own_script_runs(study, tmp_path):
    page = tmp_path / "compare.html"
    page.write_text(render_compare_page(build_comparison([study])))
    dom, console = chromium(page.as_uri(), tmp_path / "profile")
    assert console == []
    assert '<th scope="col" data-text=""><button>Variant</button></th>' in dom
    # Positive control: a foreign script and a remote image are both blocked.
    more = '<script>document.title = "taken"</script><img src="https://example.invalid/x.png"></body>'
    page.write_text(page.read_text().replace("</body>", more))
    dom, console = chromium(page.as_uri(), tmp_path / "profile")
    assert sum("Content Security Policy" in line for line in console) >= 2
    assert "<title>taken" not in dom


@pytest.fixture
def root(studies, study, tmp_path):
    """A folder with a run and a study on their way."""
    folder = tmp_path / "runs" / "live"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("stages: [{steps: 300}]\n")
    studies.write_metrics_csv(folder / "metrics.csv", {"baseline": 0.8}, steps=120, epochs=4)
    shutil.copytree(study, tmp_path / "runs" / "S")
    return tmp_path / "runs"


def test_board_is_silent_and_asks_for_its_pages_only(root, tmp_path):
    with serving(create_app(root, refresh=600)) as (address, asked):
        for path in ("/", "/at/S"):
            dom, console = chromium(f"{address}{path}", tmp_path / "profile", budget=1000)
            assert console == []
            assert dom.rstrip().endswith("</html>")
    assert asked == ["/", "/at/S"]


def test_board_looks_again_by_itself_while_something_runs(root, tmp_path):
    flags = [flag for flag in FLAGS if flag != "--dump-dom"]
    log = tmp_path / "log"
    with serving(create_app(root, refresh=1)) as (address, asked), log.open("w") as err:
        # Time is real here, as a page that comes again and again has no end to dump.
        browser = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"{address}/at/live"], start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
        try:
            end = time.monotonic() + 30
            while asked.count("/at/live") < 3 and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait(20)
    assert asked.count("/at/live") >= 3
    assert set(asked) == {"/at/live"}
    assert "CONSOLE" not in log.read_text()


def test_a_table_keeps_the_order_it_was_given_when_the_page_is_loaded_again(study, tmp_path):
    from starlette.responses import HTMLResponse

    probe = """<script>addEventListener('load', () => {
      const table = document.querySelector('table.sortable'), head = table.tHead.rows[0].cells[2];
      if (!sessionStorage.seen) { sessionStorage.seen = 1; head.querySelector('button').click(); location.reload(); }
      else document.body.dataset.order = [...table.tBodies[0].rows].map(row => row.cells[2].dataset.v ?? '').join();
    });</script>"""
    text = re.sub(r"<meta http-equiv[^>]*>", "", render_compare_page(build_comparison([study]))).replace(
        "<head>", f"<head>{probe}"
    )
    with serving(HTMLResponse(text)) as (address, asked):
        dom, _ = chromium(address, tmp_path / "profile")
    order = [float(value) for value in re.search(r'data-order="([^"]*)"', dom)[1].split(",") if value]
    assert len(asked) == 2
    assert len(order) > 4
    assert order == sorted(order, reverse=True)


def test_board_fits_phone_and_desk(studies, study, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(study, root / "a" / ("folder_" * 8) / "S")
    (root / LONG).mkdir()
    (root / LONG / "recipe.yaml").write_text("stages: [{steps: 300}]\n")
    studies.write_metrics_csv(root / LONG / "metrics.csv", {LONG: 0.8, "baseline": 0.7}, steps=120, epochs=4)
    runs = list_runs(root)
    assert len(runs) == 2
    texts = [render_index(runs.values(), root), render_page(runs[LONG]), render_not_found()]
    # These have other tables, or none: only width, errors and requests are asked for.
    nothing = "before = [], down = [], up = [], head = document.body;\n  parent"
    small = re.sub(r"column = name =>.*?parent", nothing, PROBE, flags=re.DOTALL)
    copies = [re.sub(r"<meta http-equiv[^>]*>", "", text).replace("<head>", f"<head>{small}") for text in texts]
    pages = [(f"{place} {width}", width, copy) for place, copy in enumerate(copies) for width in (390, 1280)]
    host = tmp_path / "host.html"
    host.write_text(HOST.replace("PAGES", json.dumps(pages).replace("</", "<\\/")))
    dom, _ = chromium(host.as_uri(), tmp_path / "profile")
    seen = json.loads(html.unescape(re.search(r'data-out="([^"]*)"', dom)[1]))
    assert len(seen) == 6
    for one in seen:
        assert one["errors"] == one["asked"] == []
        assert one["scroll"] == one["client"] == int(one["name"].split()[1])
