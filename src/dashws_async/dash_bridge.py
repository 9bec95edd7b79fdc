"""The one place that touches the private names of Dash's app.

Everything else sees `DashApp`. Each private name is listed in `PRIVATE_NAMES`
with the reason why it is needed; the import fails, loudly and early, on a Dash
that does not have them or whose version is not known to work.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Container, Iterable, Iterator
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
    "QuartResponseAdapter",
    "UnsupportedDash",
    "WebsocketDisconnected",
    "hooks",
    "stringify_id",
    "to_json",
]


class UnsupportedDash(ImportError):
    """The installed Dash is not one that this version of dashws-async knows."""


PRIVATE_NAMES = {
    "Dash._initialize_context": "what `DashApp.bind` makes more quickly, as the next two too",
    "Dash._prepare_callback": "finds the callback and its argument groupings",
    "Dash._execute_callback": "binds the callback, custom_data hooks included",
    "Dash._inputs_to_vals": "turns the request's inputs into arguments",
    "Dash._get_worker_url": "where pages find the shared worker; has Dash serve its own",
    "dash._get_app.app_context": "what dash.get_app() reads; keeps two apps apart",
    "dash._grouping.grouping_len": "how many inputs or outputs a callback groups",
    "dash._grouping.map_grouping": "groups them",
    "dash._utils.AttributeDict": "what ctx and its parts are",
    "dash._utils.stringify_id": "the text of dict ids, as the page writes it",
    "dash._utils.to_json": "Dash's encoder: components, figures, Patch, numpy",
    "dash._validate.validate_output_spec": "compares a request's outputs with the callback's",
    "dash.backends._quart.QuartRequestAdapter": "what ctx reads cookies and headers from",
    "dash.backends._quart.QuartResponseAdapter": "what ctx.response is",
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
from dash._grouping import grouping_len, map_grouping  # noqa: E402
from dash._utils import AttributeDict, stringify_id  # noqa: E402
from dash._utils import to_json as _to_json  # noqa: E402
from dash._validate import validate_output_spec  # noqa: E402
from dash.backends import get_backend  # noqa: E402
from dash.backends._quart import QuartRequestAdapter, QuartResponseAdapter  # noqa: E402

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


class _Known(NamedTuple):
    """What was found out once about a callback, and what from."""

    function: Callable[..., Any]
    of: frozenset[str]
    spec: CallbackSpec
    ids: list[str]
    """Of its inputs and states."""


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
        self._known: dict[str, _Known] = {}  # callbacks that were asked for, by their outputs
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
        function, persistent = registered["callback"], self._persistent_outputs()
        known = self._known.get(output)
        # Pages register theirs late, and may do so again.
        if known is not None and known.function is function and known.of is persistent:
            return known.spec
        spec = CallbackSpec(
            name=f"{function.__module__}.{function.__qualname__}",
            is_async=inspect.iscoroutinefunction(function),
            persistent=output in persistent,
            websocket=not registered.get("background")
            and bool(self._private._websocket_callbacks or registered.get("websocket")),
            function=function,
        )
        ids = [each["id"] for each in registered["inputs"] + registered["state"]]
        self._known[output] = _Known(function, persistent, spec, ids)
        return spec

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
        """How a request differs from the callback that it names, and `find` has found, or None.

        Dash would find out only in the midst of the call, and not everything.

        Args:
            payload: of the shape that `messages.decode` sees to.
        """
        registered, known = self.app.callback_map[payload["output"]], self._known[payload["output"]]
        if not _same_shape(known.ids, payload.get("inputs", []) + payload.get("state", [])):
            return "the inputs and states are not those of the callback"
        if registered["no_output"]:
            return None
        output, found = registered["output"], payload.get("outputs")
        if isinstance(output, Output) and _is_for(found, output):
            return None
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
        app, registered = self._private, self.app.callback_map[payload["output"]]
        inputs, states = payload.get("inputs", []), payload.get("state", [])
        outputs = [] if registered["no_output"] else payload.get("outputs", [])
        manager = registered["manager"] or app._background_manager
        custom_data = AttributeDict()
        context = _Context(
            {
                "inputs_list": inputs,
                "states_list": states,
                "outputs_list": outputs,
                "updated_props": {},
                "background_callback_manager": manager,
                "ignore_register_page": registered["background"],
                "custom_data": custom_data,
                "dash_websocket": websocket,
            },
            _Call(app.backend, registered, payload.get("changedPropIds", ())),
        )
        hooks_of_custom_data = app._hooks.get_hooks("custom_data")
        if hooks_of_custom_data:
            context.make_all()
        for hook in hooks_of_custom_data:
            custom_data[hook.data["namespace"]] = hook(context)
        return functools.partial(
            registered["callback"],
            *app._inputs_to_vals(inputs + states),
            outputs_list=outputs,
            background_callback_manager=manager,
            callback_context=context,
            app=self.app,
            app_on_error=app._on_error,
            app_use_async=app._use_async,
        )

    def current(self) -> AbstractContextManager[None]:
        """Make this app the one that ``dash.get_app()`` gives."""
        return _Current(self.app)


def _is_for(found: Any, output: Output) -> bool:
    """Whether an output of a request is this one, which has a plain id. (False: perhaps.)"""
    return (
        isinstance(found, dict)
        and isinstance(output.component_id, str)
        and found["id"] == output.component_id
        and found["property"] == output.component_property
    )


class _Current:
    __slots__ = ("_app", "_token")

    def __init__(self, app: dash.Dash) -> None:
        self._app = app

    def __enter__(self) -> None:
        self._token = app_context.set(self._app)

    def __exit__(self, *_: object) -> None:
        app_context.reset(self._token)


class _Call(NamedTuple):
    """What the late parts of ``ctx`` are made from, besides its early ones."""

    backend: Any
    registered: dict[str, Any]
    changed: Iterable[str]
    """``id.property`` of what has changed, some perhaps twice."""


class _Context(AttributeDict):
    """What ``ctx`` reads. Most of it most callbacks never read: that is made when one does.

    Dash makes all of it for each request, which takes longer than the rest of it, and a
    persistent callback would keep it. What is made is the same, as a test compares.
    """

    def __init__(self, early: dict[str, Any], call: _Call) -> None:
        super().__init__(early)
        object.__setattr__(self, "_call", call)  # an attribute is an entry otherwise

    def __missing__(self, name: str) -> Any:
        for part, made in _LATE[name](self, self._call).items():
            self.setdefault(part, made)
        return self[name]

    def make_all(self) -> None:
        """For those who look at it as at a dict, not by name."""
        for name in _LATE:
            self[name]


def _values(context: _Context, call: _Call) -> dict[str, Any]:
    values = _by_prop_id(context["inputs_list"])
    changed = dict.fromkeys(call.changed)
    return {
        "input_values": values,
        "state_values": _by_prop_id(context["states_list"]),
        "triggered_inputs": [{"prop_id": each, "value": values.get(each)} for each in changed],
    }


def _groupings(context: _Context, call: _Call) -> dict[str, Any]:
    # In a list, each input would be looked for: the square of their number.
    changed = set(call.changed)
    entries = context["inputs_list"] + context["states_list"]
    args, args_are_grouped = _grouped(
        [_with_trigger(each, changed) for each in entries], call.registered["inputs_state_indices"]
    )
    outputs, outputs_are_grouped = _grouped(
        context["outputs_list"], call.registered["outputs_indices"]
    )
    return {
        "args_grouping": args,
        "using_args_grouping": args_are_grouped,
        "outputs_grouping": outputs,
        "using_outputs_grouping": outputs_are_grouped,
    }


def _of_request(_: _Context, call: _Call) -> dict[str, Any]:
    request = call.backend.request_adapter()
    return {
        "cookies": dict(request.cookies),
        "headers": dict(request.headers),
        "args": request.args,
        "path": request.full_path,
        "remote": request.remote_addr,
        "origin": request.origin,
    }


def _response(_: _Context, call: _Call) -> dict[str, Any]:
    return {"dash_response": call.backend.response_adapter()}


_LATE: dict[str, Callable[[_Context, _Call], dict[str, Any]]] = {
    **dict.fromkeys(("input_values", "state_values", "triggered_inputs"), _values),
    **dict.fromkeys(("args_grouping", "using_args_grouping"), _groupings),
    **dict.fromkeys(("outputs_grouping", "using_outputs_grouping"), _groupings),
    **dict.fromkeys(("cookies", "headers", "args", "path", "remote", "origin"), _of_request),
    "dash_response": _response,
}
"""What makes each late part; some make several at once."""


def _by_prop_id(entries: list[Any]) -> Any:
    """``ctx.inputs`` or ``ctx.states``."""
    return AttributeDict(
        {
            f"{stringify_id(each['id'])}.{each['property']}": each.get("value")
            for entry in entries
            for each in (entry if isinstance(entry, list) else (entry,))
        }
    )


def _with_trigger(entry: Any, changed: Container[str]) -> Any:
    """An entry of ``ctx.args_grouping``."""
    if isinstance(entry, list):
        return [_with_trigger(each, changed) for each in entry]
    component_id = entry["id"]
    text = stringify_id(component_id)
    return AttributeDict(
        {
            **entry,
            "value": entry.get("value"),
            "str_id": text,
            "triggered": f"{text}.{entry['property']}" in changed,
            "id": AttributeDict(component_id) if isinstance(component_id, dict) else component_id,
        }
    )


def _grouped(flat: Any, indices: Any) -> tuple[Any, bool]:
    """Inputs or outputs as the callback's author has grouped them, and whether that is at all.

    Args:
        flat: them, or the only one.
        indices: where in it each stands, or the place of the only one.
    """
    if not isinstance(flat, list):
        flat = [flat]
    if not flat:
        return [], False
    if isinstance(indices, int):
        return flat[indices], False
    count = grouping_len(indices)  # type: ignore[no-untyped-call]
    if indices == list(range(count)):
        return flat[:count], False
    return map_grouping(flat.__getitem__, indices), True  # type: ignore[no-untyped-call]


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _same_shape(ids: list[str], found: list[Any]) -> bool:
    """Whether there is a flat list for each id that stands for several components, and no other."""
    if len(ids) != len(found):
        return False
    for component_id, each in zip(ids, found, strict=True):
        if '["ALL' in component_id:  # ALL and ALLSMALLER
            if not isinstance(each, list) or any(not isinstance(inner, dict) for inner in each):
                return False
        elif not isinstance(each, dict):
            return False
    return True
