"""Who a connection belongs to, and the end of all connections of one user."""

import logging
import secrets
import threading

import anyio
import anyio.to_thread
import pytest
import quart
from dash import Input, Output, ctx, set_props

from apps import make_app, make_server
from dashws_async import Peer, WebSocketRuntime, offload
from dashws_async.testing import open_browser
from until import eventually

pytestmark = pytest.mark.anyio


def is_ann(peer):
    return peer.identity == "ann"


def identify_by_cookie(websocket):
    return websocket.cookies.get("user")


async def identify_by_cookie_later(websocket):
    await anyio.sleep(0)
    return identify_by_cookie(websocket)


@pytest.fixture
def stage(anyio_backend):
    return Stage(anyio_backend)


class Stage:
    """An app with a persistent callback, and an event-triggered one; both note how they end."""

    def __init__(self, loop, **knobs):
        self.runtime = WebSocketRuntime(**{"identify": identify_by_cookie, **knobs})
        self.app = make_app(loop, "go", "live", "close", runtime=self.runtime)
        self.notes = []

        @self.app.callback(persistent=True)
        async def live():
            user, number = ctx.cookies["user"], 0
            while not ctx.websocket.is_shutdown:
                set_props("live", {"children": number})
                number += 1
                await anyio.sleep(0.001)
            self.notes.append(f"{user} saw the end")

        @self.app.callback(
            Output("go", "children"), Input("go", "n_clicks"), prevent_initial_call=True
        )
        async def wait(_):
            try:
                await anyio.sleep_forever()
            finally:
                self.notes.append(f"{ctx.cookies['user']} was cancelled")

    def open_browser(self, user):
        return open_browser(self.app, cookies={"user": user})

    async def started(self, callbacks):
        await eventually(lambda: self.runtime.statistics().callbacks == callbacks)


@pytest.mark.parametrize("identify", [identify_by_cookie, identify_by_cookie_later])
async def test_the_registry_and_the_log_say_who_a_connection_belongs_to(
    anyio_backend, identify, caplog
):
    caplog.set_level("INFO", "dashws_async")
    stage = Stage(anyio_backend, identify=identify)
    async with stage.open_browser("ann") as ann, stage.open_browser("bob") as bob:
        await ann.open_page()
        await bob.open_page()
        await eventually(lambda: len(stage.runtime.connections) == 2)
        connections = stage.runtime.connections
        assert {connection.identity for connection in connections} == {"ann", "bob"}
        for connection in connections:
            text = f"Connection {connection.id} belongs to {connection.identity!r}"
            assert text in caplog.messages


async def test_without_identify_nobody_is_named(anyio_backend):
    runtime = WebSocketRuntime()
    async with open_browser(make_app(anyio_backend, runtime=runtime)) as browser:
        await browser.open_page()
        (connection,) = runtime.connections
        assert connection.identity is None


async def test_identify_comes_after_the_connect_hooks(anyio_backend, hooks):
    asked = []

    @hooks.websocket_connect()
    async def connect(_):
        asked.append("hook")
        return ctx_of.pop()

    def identify(_):
        asked.append("identify")

    ctx_of = [False, True]
    runtime = WebSocketRuntime(identify=identify)
    async with open_browser(make_app(anyio_backend, runtime=runtime)) as browser:
        await browser.open_page()
        await eventually(lambda: runtime.statistics().connections == 1)
        await browser.reconnect()
        assert await browser.wait_closed() == 4001
    assert asked == ["hook", "identify", "hook"]


async def fail(_):
    raise LookupError("whose is it?")


async def hang(_):
    await anyio.sleep_forever()


@pytest.mark.parametrize(("identify", "code"), [(fail, 4001), (hang, 1013)])
async def test_an_identify_that_fails_or_hangs_rejects(anyio_backend, identify, code, caplog):
    runtime = WebSocketRuntime(identify=identify, hook_timeout=0.01)
    async with open_browser(make_app(anyio_backend, runtime=runtime)) as browser:
        await browser.open_page()
        assert await browser.wait_closed() == code
    assert "identify" in caplog.text
    assert runtime.statistics().connections_total == 0
    assert runtime.statistics().refused["hook"] == 1


async def test_close_ends_the_connections_of_one_user_and_no_other(stage):
    async with (
        stage.open_browser("ann") as laptop,
        stage.open_browser("ann") as phone,
        stage.open_browser("bob") as bob,
    ):
        pages = [await browser.open_page() for browser in (laptop, laptop, phone, bob)]
        for page in pages:
            await page.click("go")
        await stage.started(callbacks=8)
        assert stage.runtime.close(is_ann, reason="Signed out") == 2
        assert stage.runtime.close(is_ann, reason="Again") == 0  # they end already
        for browser in (laptop, phone):
            assert await browser.wait_closed() == 4001
            assert browser.close_reason == "Signed out"
        await stage.started(callbacks=2)
        assert sorted(stage.notes) == ["ann saw the end"] * 3 + ["ann was cancelled"] * 3
        reached = pages[3].get("live", "children")
        await pages[3].wait_for("live", "children", lambda number: number > reached)
        assert stage.runtime.close(is_ann) == 0
    assert stage.runtime.statistics().closed["revoked"] == 2


async def test_close_chooses_by_what_a_peer_is(stage):
    seen = []
    async with stage.open_browser("ann") as browser:
        await browser.open_page()
        (connection,) = stage.runtime.connections
        assert stage.runtime.close(seen.append) == 0
        assert seen == [Peer(connection.id, connection.client, "ann")]
        assert stage.runtime.close(lambda peer: peer.id == connection.id, code=1012) == 1
        assert await browser.wait_closed() == 1012


async def test_close_from_a_thread(stage):
    async with stage.open_browser("ann") as browser:
        await browser.open_page()
        await stage.started(callbacks=1)
        assert await anyio.to_thread.run_sync(stage.runtime.close, is_ann) == 1
        assert await browser.wait_closed() == 4001


@pytest.mark.parametrize("mode", ["async", "hybrid", "threads"])
@pytest.mark.parametrize("kind", ["async def", "offload", "def"])
async def test_close_from_a_callback_of_the_same_connection(anyio_backend, mode, kind):
    runtime = WebSocketRuntime(mode=mode, identify=identify_by_cookie)
    app = make_app(anyio_backend, "go", "out", runtime=runtime)
    closed = []

    def sign_out(_):
        closed.append(runtime.close(is_ann))
        closed.append(runtime.close(is_ann))

    async def sign_out_async(_):
        sign_out(_)
        try:
            await anyio.sleep(10)
        finally:
            closed.append("cancelled")

    function = {"async def": sign_out_async, "offload": offload(sign_out), "def": sign_out}[kind]
    app.callback(Output("out", "children"), Input("go", "n_clicks"), prevent_initial_call=True)(
        function
    )
    async with open_browser(app, cookies={"user": "ann"}) as browser:
        page = await browser.open_page()
        await page.click("go")
        assert await browser.wait_closed() == 4001
        await eventually(lambda: not runtime.connections)
    assert closed[0] == 1
    assert closed[2:] == (["cancelled"] if kind == "async def" else [])


async def test_a_view_signs_a_user_out_everywhere(anyio_backend, hooks):
    users = {}
    runtime = WebSocketRuntime(identify=lambda _: users[quart.session["id"]])
    server = make_server(anyio_backend)
    server.secret_key = "secret"
    app = make_app(anyio_backend, "live", runtime=runtime, server=server)

    @hooks.websocket_connect()
    def is_signed_in(_):
        return quart.session.get("id") in users or (4001, "Not signed in")

    @server.get("/login/<user>")
    async def login(user):
        quart.session["id"] = secrets.token_hex()
        users[quart.session["id"]] = user
        return ""

    @server.get("/logout")
    async def logout():
        user = users[quart.session["id"]]
        for session in [each for each in users if users[each] == user]:
            del users[session]
        return str(runtime.close(where=lambda peer: peer.identity == user))

    async with (
        open_browser(app) as laptop,
        open_browser(app) as phone,
        open_browser(app) as bob,
    ):
        for browser, user in [(laptop, "ann"), (phone, "ann"), (bob, "bob")]:
            await browser._get(f"{browser._site.base_url}login/{user}")
            await browser.open_page()
            assert browser.connected
        await eventually(lambda: runtime.statistics().connections == 3)
        answer = await laptop._get(f"{laptop._site.base_url}logout")
        assert answer.text == "2"
        for browser in (laptop, phone):  # the phone still has its cookie
            assert await browser.wait_closed() == 4001
            await browser.reconnect()
            assert await browser.wait_closed() == 4001
            assert browser.close_reason == "Not signed in"
        assert [each.identity for each in runtime.connections] == ["bob"]


def test_close_before_anything_was_served_closes_nothing():
    runtime = WebSocketRuntime()
    assert runtime.close(lambda peer: True) == 0
    make_app("asyncio", runtime=runtime)
    assert runtime.close(lambda peer: True) == 0


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"code": 1006}, ValueError),
        ({"code": "4001"}, TypeError),
        ({"reason": "x" * 124}, ValueError),
        ({"reason": None}, TypeError),
    ],
)
async def test_close_checks_how_before_it_ends_anything(stage, how, error):
    async with stage.open_browser("ann") as browser:
        await browser.open_page()
        with pytest.raises(error, match=r"close\("):
            stage.runtime.close(is_ann, **how)
        assert browser.connected
        assert stage.runtime.connections[0].closing is None


async def test_close_also_finds_who_is_just_being_identified(anyio_backend):
    asked, go_on = anyio.Event(), anyio.Event()

    async def identify(websocket):
        asked.set()
        await go_on.wait()
        return identify_by_cookie(websocket)

    stage = Stage(anyio_backend, identify=identify)
    async with stage.open_browser("ann") as ann, stage.open_browser("bob") as bob:
        async with anyio.create_task_group() as pages:
            pages.start_soon(ann.open_page)
            pages.start_soon(bob.open_page)
            await asked.wait()
            await eventually(lambda: len(stage.runtime._runtime._undecided) == 2)
            assert stage.runtime.close(is_ann, reason="Signed out") == 0
            go_on.set()
        assert await ann.wait_closed() == 4001
        await stage.started(1)
        assert [each.identity for each in stage.runtime.connections] == ["bob"]
    assert stage.runtime.statistics().closed["revoked"] == 1
    assert stage.runtime._runtime._undecided == set()


class CloseWhenNamed(logging.Handler):
    """Calls `runtime.close` from another thread at the moment in which a connection is there."""

    def __init__(self, runtime):
        super().__init__()
        self.runtime = runtime

    def emit(self, record):
        if "belongs to" in record.getMessage():
            thread = threading.Thread(target=self.runtime.close, args=[is_ann])
            thread.start()
            thread.join()


async def test_close_from_a_thread_finds_who_is_identified_at_this_moment(stage, caplog):
    caplog.set_level("INFO", "dashws_async")
    handler = CloseWhenNamed(stage.runtime)
    logging.getLogger("dashws_async").addHandler(handler)
    try:
        async with stage.open_browser("ann") as browser:
            await browser.open_page()
            with anyio.fail_after(5):
                assert await browser.wait_closed() == 4001
    finally:
        logging.getLogger("dashws_async").removeHandler(handler)


async def test_a_where_that_fails_for_who_is_just_being_identified_closes(anyio_backend, caplog):
    asked, go_on = anyio.Event(), anyio.Event()

    async def identify(_):
        asked.set()
        await go_on.wait()

    stage = Stage(anyio_backend, identify=identify)
    async with stage.open_browser("ann") as browser:
        async with anyio.create_task_group() as pages:
            pages.start_soon(browser.open_page)
            await asked.wait()
            stage.runtime.close(lambda peer: peer.identity["name"] == "ann", code=4002)
            go_on.set()
        assert await browser.wait_closed() == 4002
    assert stage.runtime.statistics().closed["revoked"] == 1
    assert "close(where=...) failed for Peer(" in caplog.text


async def test_close_with_a_where_that_fails_ends_nothing(stage):
    async with stage.open_browser("ann") as ann, stage.open_browser("bob") as bob:
        await ann.open_page()
        await bob.open_page()

        def where(peer):
            return {"ann": True}[peer.identity]

        with pytest.raises(KeyError):
            stage.runtime.close(where)
        assert [each.closing for each in stage.runtime.connections] == [None, None]


async def test_close_while_connections_come_and_go_from_another_thread(stage):
    stop, failures = threading.Event(), []

    def keep_closing():
        try:
            while not stop.is_set():
                stage.runtime.close(is_ann)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=keep_closing)
    thread.start()
    try:
        async with stage.open_browser("ann") as browser:
            await browser.open_page()
            for _ in range(20):
                assert await browser.wait_closed() == 4001
                await browser.reconnect()
    finally:
        stop.set()
        thread.join()
    assert failures == []
