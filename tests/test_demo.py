"""The gallery: the command, the pages, and each example live on both loops."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import dash._utils
import httpx
import pytest
from click.testing import CliRunner

import dashws_async
from dashws_async.__main__ import main
from dashws_async.demo.app import EXAMPLES, create_app
from dashws_async.demo.code import highlight, source_of
from dashws_async.demo.numbers import Meter, Reading
from dashws_async.testing import open_browser
from ports import free_port

PATHS = ["/", *(example.ABOUT.path for example in EXAMPLES)]


# The command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--loop", "uvloop"], "'uvloop' is not one of 'asyncio', 'trio'"),
        (["--port", "0"], "0 is not in the range 1<=x<=65535"),
        (["--port", "65536"], "65536 is not in the range 1<=x<=65535"),
        (["--port", "http"], "'http' is not a valid integer"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(arguments, complaint):
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.exit_code == 2
    assert complaint in result.output


@pytest.mark.parametrize(
    ("loop", "package"), [("asyncio", "numpy"), ("asyncio", "dash_ag_grid"), ("trio", "quart_trio")]
)
def test_a_missing_package_is_answered_with_the_extra_to_install(loop, package):
    without = f"import sys; sys.modules[{package!r}] = None; from dashws_async.__main__ import main"
    result = subprocess.run(
        [sys.executable, "-c", f"{without}; main(['demo', '--loop', {loop!r}])"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f'Error: The gallery needs {package}: pip install "dashws-async[demo]"\n'
    )


def test_a_port_in_use_is_said_in_one_line():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        result = _dashws("demo", "--port", str(port)).communicate(timeout=30)[0]
    assert f"Error: Cannot listen on 127.0.0.1:{port}" in result
    assert "Traceback" not in result


@pytest.mark.process
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_gallery_quietly(loop, how):
    port = free_port()
    process = _dashws("demo", "--loop", loop, "--port", str(port))
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/")
        process.send_signal(how)
        output = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert output.splitlines() == [
        f"The dashws-async gallery, on {loop}: http://127.0.0.1:{port}/  (Ctrl+C ends it)"
    ]


@pytest.mark.process
@pytest.mark.anyio
async def test_a_signal_closes_the_pages_of_every_app_for_them_to_come_back(anyio_backend_name):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = _dashws("demo", "--loop", anyio_backend_name, "--port", str(port))
    try:
        _wait_until_it_answers(url)
        async with open_browser(url) as first, open_browser(url) as second:
            await (await first.open_page("/")).wait_for("gallery-numbers", "children", _value)
            await (await second.open_page("/live-price/")).wait_for("trend", "figure", bool)
            process.send_signal(signal.SIGTERM)
            assert await first.wait_closed() == 1012
            assert await second.wait_closed() == 1012
        output = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    assert len(output.splitlines()) == 1


def _dashws(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dashws_async", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_until_it_answers(url):
    deadline = time.monotonic() + 30
    while True:
        try:
            return httpx.get(url)
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)


# The pages


@pytest.fixture
def app(anyio_backend_name):
    return create_app(anyio_backend_name)


@pytest.mark.anyio
async def test_every_page_and_the_files_it_names_are_served_from_here(app):
    client = app.server.test_client()
    for path in PATHS:
        page = await client.get(path)
        assert page.status_code == 200
        text = await page.get_data(as_text=True)
        files = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', text)
        assert len(files) > 5
        for file in files:
            assert file.startswith("/"), "the gallery must work without a network"
            assert (await client.get(file)).status_code == 200, file


def test_an_unknown_loop_is_refused():
    with pytest.raises(ValueError, match="uvloop"):
        create_app("uvloop")


def test_each_page_keeps_its_callbacks_apart_where_the_package_is_installed(monkeypatch):
    # Dash names them after the first file on the stack that is not its own, and takes
    # for its own what starts as its path does: in site-packages, this package too.
    beginning = os.path.commonpath([dash.__file__, dashws_async.__file__])
    monkeypatch.setattr(dash._utils, "__file__", os.path.join(beginning, "_utils.py"))
    front = create_app("asyncio")
    for app in (front, *_examples_of(front.server)):
        outputs = [callback["output"] for callback in app._callback_list]
        assert len(outputs) == len(set(outputs)), app.config.url_base_pathname


def _examples_of(server):
    """The apps behind the layouts that a server serves."""
    views = (server.view_functions[f"{example.ABOUT.path}_dash-layout"] for example in EXAMPLES)
    return [view.__wrapped__.__self__ for view in views]


# Live


@pytest.mark.anyio
async def test_live_price_sends_prices_by_itself(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/live-price/")
        await page.wait_for("price", "children", lambda text: re.fullmatch(r"\$\d+\.\d\d", text))
        await page.wait_for("trend", "figure", lambda figure: len(figure["data"][0]["y"]) == 3)
        assert not page.errors


@pytest.mark.anyio
async def test_countdown_counts_and_keeps_its_button_disabled(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/countdown/")
        await page.click("start")
        await page.wait_for("left", "children", "9")
        assert page.get("start", "disabled") is True
        assert page.get("ring", "style") == {"--left": 0.9}
        assert not page.errors


@pytest.mark.anyio
async def test_game_of_life_runs_while_the_page_says_so(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/game-of-life/")
        await page.click("start")
        await page.wait_for("turn", "children", "3")
        await page.click("stop")
        await page.wait_for("stop", "disabled", True)
        assert page.get("start", "disabled") is False
        assert not page.errors


@pytest.mark.anyio
async def test_ag_grid_streams_rows_until_paused(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/ag-grid/")
        await page.wait_for("grid", "rowData", lambda rows: any(row["volume"] for row in rows))
        await page.click("toggle")
        await page.wait_for("toggle", "children", "Resume")
        assert page.get("streaming", "data") is False
        assert not page.errors


@pytest.mark.anyio
async def test_log_stream_appends_lines_and_moves_the_bar(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/log-stream/")
        await page.click("deploy")
        await page.wait_for("log", "children", lambda lines: len(lines) == 3)
        await page.wait_for("bar", "style", {"width": "16%"})
        assert page.get("deploy", "disabled") is True
        assert not page.errors


@pytest.mark.anyio
async def test_live_feed_grows_by_patches_and_follows_the_dropdown(app):
    async with open_browser(app) as browser:
        page = await browser.open_page("/live-feed/")
        await page.wait_for("trades", "children", lambda rows: len(rows) == 3)
        await page.set_props("symbol", value="BOLT")
        await page.wait_for("chart", "figure", lambda figure: _near(47.2, figure["data"][0]["y"]))
        assert not page.errors


def _near(price, points):
    return len(points) > 1 and all(abs(point - price) < 10 for point in points)


@pytest.mark.anyio
async def test_the_numbers_count_all_pages_of_the_process(app):
    async with open_browser(app) as first, open_browser(app) as second:
        front = await first.open_page("/")
        page = await second.open_page("/this-process/")
        await page.wait_for("numbers", "children", lambda terms: _value(terms, 0) == "2")
        await front.wait_for("gallery-numbers", "children", lambda terms: _value(terms, 0) == "2")
        assert _value(page.get("numbers", "children"), 1) == "3"
        assert not front.errors
        assert not page.errors


def _value(terms, index=0):
    return terms[index]["props"]["children"][1]["props"]["children"]


# The parts


def test_updates_per_second_are_of_the_time_between_two_readings():
    first = Reading(at=10.0, connections=0, callbacks=0, updates_sent=100, threads=1)
    second = Reading(at=12.0, connections=0, callbacks=0, updates_sent=150, threads=1)
    assert second.updates_per_second_since(first) == 25
    assert first.updates_per_second_since(first) == 0


def test_a_meter_without_runtimes_still_counts_threads():
    reading = Meter([]).read()
    assert (reading.connections, reading.callbacks, reading.updates_sent) == (0, 0, 0)
    assert reading.threads >= 1


def test_a_code_panel_shows_the_source_to_the_letter():
    source = source_of(test_a_code_panel_shows_the_source_to_the_letter)
    spans = highlight(source).children.children
    text = "".join(span if isinstance(span, str) else span.children for span in spans)
    assert text == source


def test_a_code_panel_marks_the_names_of_the_api():
    spans = highlight('set_props("price", {"children": 1})  # sent\n').children.children
    marked = {span.children: span.className for span in spans if not isinstance(span, str)}
    assert marked == {
        "set_props": "code-api",
        '"price"': "code-string",
        '"children"': "code-string",
        "1": "code-number",
        "# sent": "code-comment",
    }
