"""The one place that touches the private names of Dash's app.

Everything else sees `DashApp`. Each private name is listed in `PRIVATE_NAMES`
with the reason why it is needed; the import fails, loudly and early, on a Dash
that does not have them or whose version is not known to work.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from types import CodeType
from typing import Any, NamedTuple, cast

import dash
import orjson
from dash.exceptions import CallbackException, PreventUpdate, WebsocketDisconnected

from .origins import parse_allowed_origins

__all__ = [
    "PRIVATE_NAMES",
    "CallbackSpec",
    "DashApp",
    "PreventUpdate",
    "QuartDashServer",
    "QuartRequestAdapter",
    "UnsupportedDash",
    "WebsocketDisconnected",
    "hooks",
    "stringify_id",
    "to_json",
]


class UnsupportedDash(ImportError):
    """The installed Dash is not one that this version of dashws-async knows."""


PRIVATE_NAMES = {
    "Dash._initialize_context": "builds ctx from a callback request",
    "Dash._prepare_callback": "finds the callback and its argument groupings",
    "Dash._inputs_to_vals": "turns the request's inputs into arguments",
    "Dash._execute_callback": "binds the callback, custom_data hooks included",
    "Dash._get_worker_url": "where pages find the shared worker; has Dash serve its own",
    "dash._get_app.app_context": "what dash.get_app() reads; keeps two apps apart",
    "dash._utils.stringify_id": "the text of dict ids, as the page writes it",
    "dash._utils.to_json": "Dash's encoder: components, figures, Patch, numpy",
    "dash._validate.validate_output_spec": "compares a request's outputs with the callback's",
    "dash.backends._quart.QuartRequestAdapter": "what ctx reads cookies and headers from",
}
"""Private names that are looked up by their place, and why. The attributes of an
app that are read besides stand in `DashApp`, one property each."""


def _supported(version: str) -> bool:
    major_minor = tuple(int(part) for part in version.split(".")[:2])
    return (4, 4) <= major_minor < (4, 6)


def _missing_private_names() -> list[str]:
    import importlib

    missing = []
    for name in PRIVATE_NAMES:
        owner, _, attribute = name.rpartition(".")
        try:
            found = dash.Dash if owner == "Dash" else importlib.import_module(owner)
        except ImportError:
            missing.append(name)
        else:
            if not hasattr(found, attribute):
                missing.append(name)
    return missing


def check_dash(version: str = dash.__version__) -> None:
    """Refuse a Dash that this code was not made for.

    Raises:
        UnsupportedDash: with the version found and what to install.
    """
    wanted = 'install one that is: pip install "dash[quart]>=4.4,<4.6"'
    if not _supported(version):
        raise UnsupportedDash(
            f"dashws-async works with Dash 4.4 and 4.5, found {version}; {wanted}"
        )
    if missing := _missing_private_names():
        raise UnsupportedDash(
            f"Dash {version} has changed inside, it lacks {', '.join(missing)}; {wanted}"
        )


check_dash()

from dash import Output, hooks  # noqa: E402
from dash._get_app import app_context  # noqa: E402
from dash._utils import stringify_id  # noqa: E402
from dash._utils import to_json as _to_json  # noqa: E402
from dash._validate import validate_output_spec  # noqa: E402
from dash.backends import get_backend  # noqa: E402
from dash.backends._quart import QuartRequestAdapter  # noqa: E402

QuartDashServer: Any = get_backend("quart")

_DEFAULT_BATCH_DELAY = inspect.signature(dash.Dash).parameters["websocket_batch_delay"].default


_PLAIN = frozenset({str, int, float, bool, type(None)})


def to_json(value: object) -> str:
    """Encode as Dash does: components, figures, ``Patch``, numpy, dates.

    Raises:
        TypeError: the value cannot be encoded.
    """
    if type(value) in _PLAIN:  # most updates are, and Dash's encoder looks at much before it does
        with suppress(TypeError):
            return orjson.dumps(value).decode()
    return cast(str, _to_json(value))  # type: ignore[no-untyped-call]


def _not_disconnected(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, WebsocketDisconnected)


# Dash 4.5 logs whatever a generator callback raises. That the client has left is no error.
logging.getLogger("dash._callback").addFilter(_not_disconnected)


class CallbackSpec(NamedTuple):
    """What is known of a registered callback before it runs."""

    name: str
    """``module.function``, for people."""
    is_async: bool
    """Whether it is an ``async def`` (`offload` makes one)."""
    persistent: bool
    """Registered with ``persistent=True``."""
    websocket: bool
    """Whether the page may call it over the WebSocket."""
    function: Callable[..., Any]
    """What Dash made of it."""

    @property
    def decorated(self) -> Callable[..., Any]:
        """What the user registered: a function with whatever stands around it."""
        return cast("Callable[..., Any]", getattr(self.function, "__wrapped__", self.function))

    @property
    def file(self) -> str:
        """The file that the user's function is written in."""
        return self.code.co_filename if self.code is not None else ""

    @property
    def code(self) -> CodeType | None:
        """The code of the user's function itself; None where a callable object was registered."""
        return getattr(inspect.unwrap(self.function), "__code__", None)


class DashApp:
    """A ``dash.Dash`` app, as far as the runtime needs to know it.

    Raises:
        TypeError: ``websocket_allowed_origins`` is not a list of strings.
        ValueError: an entry of it is not an origin.
    """

    def __init__(self, app: dash.Dash) -> None:
        self.app = app
        self._private: Any = app  # Dash's attributes are private and untyped
        self._persistent: frozenset[str] = frozenset()
        self._persistent_of: tuple[int, int] = (0, 0)
        self._page_script: str | None = None
        self.allowed_origins = parse_allowed_origins(self._private._websocket_allowed_origins)
        """``Dash(websocket_allowed_origins=...)``."""

    @property
    def websocket_path(self) -> str:
        """Where the server listens; behind a proxy the page may use another prefix."""
        return self.routes_prefix + "_dash-ws-callback"

    @property
    def routes_prefix(self) -> str:
        """What the paths of the server's routes begin with."""
        return cast(str, self.app.config.routes_pathname_prefix)

    @property
    def batch_delay(self) -> float:
        """``Dash(websocket_batch_delay=...)`` in seconds, ``0.0`` unless it was set.

        Dash's default cannot be told from the same number given by hand; both
        mean that nothing waits.
        """
        delay = self._private._websocket_batch_delay
        return 0.0 if delay in (None, _DEFAULT_BATCH_DELAY) else float(delay)

    @property
    def inactivity_timeout(self) -> float | None:
        """``Dash(websocket_inactivity_timeout=...)`` in seconds, None if it is off."""
        milliseconds = self._private._websocket_inactivity_timeout
        return milliseconds / 1000 if milliseconds else None

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between a browser's heartbeats, at most.

        ``Dash(websocket_heartbeat_interval=...)``, or the page's own 30 s if that is
        longer: the page does not always pass the number on.
        """
        return max(30.0, (self._private._websocket_heartbeat_interval or 0) / 1000)

    @property
    def max_workers(self) -> int:
        """``Dash(websocket_max_workers=...)``: threads for slow plain functions."""
        return cast(int, self._private._websocket_max_workers or 4)

    @property
    def debug(self) -> bool:
        """Whether the page shows Dash's developer tools (``app.run(debug=True)``)."""
        return bool(self._private._dev_tools.ui)

    @property
    def silence_routes_logging(self) -> bool:
        """``app.run(dev_tools_silence_routes_logging=...)``."""
        return bool(self._private._dev_tools.silence_routes_logging)

    @property
    def dash_worker_url(self) -> str:
        """Where pages find Dash's own shared worker; from now on Dash serves it there."""
        return cast(str, type(self._private)._get_worker_url(self.app))

    def replace_worker(self, path: Callable[[], str]) -> None:
        """Have pages use another shared worker than Dash's.

        Args:
            path: gives, for each page, where it is served below the app's prefix.
        """

        def worker_url(*which: str, **by_name: str) -> str:
            url = cast(str, type(self._private)._get_worker_url(self.app, *which, **by_name))
            if url == self.dash_worker_url:
                return self._public_prefix + path()
            return url  # of another worker that Dash 4.5 has

        self._private._get_worker_url = worker_url

    def add_page_script(self, path: str) -> None:
        """Have pages run a script before Dash's renderer and before all other scripts but React.

        Args:
            path: where it is served below the app's prefix.
        """
        others = [each for each in self.app.config.external_scripts if each != self._page_script]
        self._page_script = self._public_prefix + path
        # Not changed in place: the list is the user's, who may have given it to two apps.
        self.app.config.external_scripts = [self._page_script, *others]

    @property
    def _public_prefix(self) -> str:
        return cast(str, self.app.config.requests_pathname_prefix)

    @property
    def uses_websocket(self) -> bool:
        """Whether any callback may run over the WebSocket."""
        return bool(self._private._websocket_callbacks) or any(
            callback.get("websocket") for callback in self.app.callback_map.values()
        )

    def find(self, output: str) -> CallbackSpec | None:
        """The callback that the page calls by its ``output`` id, or None."""
        registered = self.app.callback_map.get(output)
        if registered is None or "callback" not in registered:
            return None
        function = registered["callback"]
        return CallbackSpec(
            name=f"{function.__module__}.{function.__qualname__}",
            is_async=inspect.iscoroutinefunction(function),
            persistent=output in self._persistent_outputs(),
            websocket=not registered.get("background")
            and bool(self._private._websocket_callbacks or registered.get("websocket")),
            function=function,
        )

    def callbacks_by_code(self) -> dict[CodeType, CallbackSpec]:
        """The callbacks by the code of their functions, and of the functions inside these.

        Takes microseconds for each callback. From any thread.
        """
        specs = [self.find(output) for output in list(self.app.callback_map)]
        return {
            code: spec
            for spec in specs
            if spec is not None and spec.code is not None
            for code in _with_inner(spec.code)
        }

    def _persistent_outputs(self) -> frozenset[str]:
        # Only the list that Dash sends to the page says which callbacks are
        # persistent. It grows while pages register theirs.
        specs = self._private._callback_list
        version = (id(specs), len(specs))
        if version != self._persistent_of:
            self._persistent = frozenset(s["output"] for s in specs if s.get("persistent"))
            self._persistent_of = version
        return self._persistent

    def mismatch(self, payload: dict[str, Any]) -> str | None:
        """How a request differs from the callback that it names, or None.

        Dash would find out only in the midst of the call, and not everything.

        Args:
            payload: of the shape that `messages.decode` sees to.
        """
        registered = self.app.callback_map[payload["output"]]
        wanted = [each["id"] for each in registered["inputs"] + registered["state"]]
        if not _same_shape(wanted, payload.get("inputs", []) + payload.get("state", [])):
            return "the inputs and states are not those of the callback"
        if registered["no_output"]:
            return None
        output, found = registered["output"], payload.get("outputs")
        outputs, all_found = ([output], [found]) if isinstance(output, Output) else (output, found)
        wanted = [each.component_id_str() for each in outputs]
        if isinstance(all_found, list) and _same_shape(wanted, all_found):
            with suppress(CallbackException):
                validate_output_spec(output, found, Output)  # type: ignore[no-untyped-call]
                return None
        return "the outputs are not those of the callback"

    def bind(self, payload: dict[str, Any], websocket: object) -> Callable[[], Any]:
        """Prepare a call of the callback that a request names.

        Must be called in the context that the callback will run in.

        Args:
            payload: the body of a callback request.
            websocket: what the callback finds as ``ctx.websocket``.

        Returns:
            A function that calls it: it returns Dash's answer as JSON text, or a
            coroutine that does, or (Dash 4.5, generator callbacks) a coroutine
            that gives an object whose ``frames`` yields answers.
        """
        dash_app = self._private
        # Dash looks up each input among these, which takes the square of their number in a list.
        payload = {**payload, "changedPropIds": dict.fromkeys(payload.get("changedPropIds", ()))}
        context = dash_app._initialize_context(payload)
        context.dash_websocket = websocket
        function = dash_app._prepare_callback(context, payload)
        arguments = dash_app._inputs_to_vals(context.inputs_list + context.states_list)
        return cast(
            "Callable[[], Any]",
            dash_app._execute_callback(function, arguments, context.outputs_list, context),
        )

    def current(self) -> AbstractContextManager[None]:
        """Make this app the one that ``dash.get_app()`` gives."""
        return _Current(self.app)


class _Current:
    __slots__ = ("_app", "_token")

    def __init__(self, app: dash.Dash) -> None:
        self._app = app

    def __enter__(self) -> None:
        self._token = app_context.set(self._app)

    def __exit__(self, *_: object) -> None:
        app_context.reset(self._token)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _same_shape(ids: list[str], found: list[Any]) -> bool:
    """Whether there is a flat list for each id that stands for several components, and no other."""
    return len(ids) == len(found) and all(
        isinstance(each, list) and all(isinstance(inner, dict) for inner in each)
        if '["ALL' in component_id  # ALL and ALLSMALLER
        else isinstance(each, dict)
        for component_id, each in zip(ids, found, strict=True)
    )
