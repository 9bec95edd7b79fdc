"""One page (tab) as a state machine: what it holds, what it sends, what it does
with what it is sent.

Knows: the page's properties, callbacks and requests. Stimuli come in through
`PageState.load`, `edit`, `set_props`, `answer` and so on; each changes properties
and notes which callbacks that asks for. `PageState.turn` then says which requests
leave now. It is the renderer of Dash (``dash-renderer``) without React.
Refuses to know: sockets, HTTP, the event loop, time. There is no ``await`` here.

The life of a callback::

    requested -> (no input of it is about to change) -> queued
              -> (fewer than 12 run) -> running -> answered
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._graph import CallbackSpec, Dependency, Firing, Graph
from ._layout import Component, ComponentId, Layout, component_key, parse_id, prop_key
from ._patch import PatchError, patched_props

__all__ = ["PageError", "PageState", "Request", "Url"]

MAX_RUNNING = 12
"""Callbacks that a page of Dash runs at once; further ones wait for an answer."""


@dataclass(frozen=True)
class PageError:
    """Something the page shows, or logs, as an error."""

    message: str
    output: str | None = None
    """The ``output`` of the callback that failed, where there is one."""
    request_id: str | None = None
    code: str | None = None
    """``code`` of an ``error`` message of the server."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Url:
    """Where the tab is: what ``dcc.Location`` reads from ``window.location``."""

    href: str
    pathname: str
    search: str = ""
    """With its ``?``, or empty."""
    hash: str = ""
    """With its ``#``, or empty."""


@dataclass(eq=False)
class Request:
    """One callback request: made by the page, not yet answered."""

    id: str
    spec: CallbackSpec
    payload: dict[str, Any]
    over_websocket: bool
    firing: Firing
    outputs: list[ComponentId] = field(default_factory=list)
    superseded: bool = False
    """The same callback ran again meanwhile: the outputs of this one are dropped."""

    @property
    def persistent(self) -> bool:
        return self.spec.persistent or self.spec.restarts


class _Unresolvable(Exception):
    """A callback names a component that is not in the page."""


class PageState:
    """A page that has been loaded.

    Args:
        renderer_id: tells this tab from the others of its socket.
        config: the ``_dash-config`` of the index page.
        layout: what ``_dash-layout`` served.
        dependencies: what ``_dash-dependencies`` served.
        history_limit: values kept per property.
    """

    def __init__(
        self,
        renderer_id: str,
        config: Mapping[str, Any],
        layout: Any,
        dependencies: Iterable[Mapping[str, Any]],
        *,
        history_limit: int = 1000,
    ) -> None:
        self.renderer_id = renderer_id
        self.config = config
        self.layout = Layout(layout, config.get("children_props"))
        self.graph = Graph(dependencies)
        self.errors: deque[PageError] = deque(maxlen=history_limit)
        self.running: dict[str, Request] = {}
        """Requests without an answer, by request id."""
        self._history_limit = history_limit
        self._history: dict[str, deque[Any]] = {}
        self._values_seen: dict[str, int] = {}
        self._requested: list[Firing] = []
        self._queued: list[Firing] = []
        self._finished_groups: dict[int, list[tuple[set[str], set[str]]]] = {}
        self._group_numbers = itertools.count(1)
        self._request_numbers = itertools.count(1)

    # What is in the page

    @property
    def websocket(self) -> Mapping[str, Any] | None:
        """The ``websocket`` entry of the config, where it can be used."""
        entry = self.config.get("websocket")
        if entry and entry.get("url") and entry.get("worker_url"):
            return dict(entry)
        return None

    @property
    def idle(self) -> bool:
        """Is nothing on its way, persistent callbacks apart?"""
        waiting = [firing.spec for firing in (*self._requested, *self._queued)]
        return all(r.persistent for r in self.running.values()) and all(
            spec.persistent or spec.restarts for spec in waiting
        )

    def history(self, component_id: ComponentId, prop: str) -> list[Any]:
        return list(self._history.get(prop_key(component_id, prop), ()))

    def values_seen(self, component_id: ComponentId, prop: str) -> int:
        """How many values the property took so far, forgotten ones included."""
        return self._values_seen.get(prop_key(component_id, prop), 0)

    # Stimuli: from the server

    def set_props(self, payload: Mapping[str, Any]) -> None:
        """A ``set_props`` message: update one component, fire what watches it."""
        self._set(payload["componentId"], payload["props"], notify=True)

    def get_props(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """What the page answers a ``get_props_request`` with.

        Properties that have no value are left out, as JSON leaves ``undefined`` out.
        """
        component = self.layout.find(payload["componentId"])
        if component is None:
            return {}
        props = component["props"]
        return {
            name: _at_path(props[name], payload.get("path"))
            for name in payload["properties"]
            if name in props
        }

    def answer(self, request_id: str, answer: Mapping[str, Any]) -> None:
        """A response to one request, or (Dash 4.5) one frame of a streamed response.

        Args:
            answer: ``{"status": "ok" | "prevent_update" | "error", ...}``.
        """
        request = self.running.get(request_id)
        if request is None:
            return
        status = answer.get("status")
        if status == "stream" or (answer.get("stream") and not answer.get("done")):
            self._take(request, answer.get("data") or {})
            return
        del self.running[request_id]
        running = request.spec.running
        if running:
            self._side_update(running.get("runningOff") or {}, request.payload)
        changed: set[str] = set()
        if status == "error":
            message = answer.get("message") or "Callback error"
            self.errors.append(PageError(message, request.spec.output, request_id))
        elif status != "prevent_update":
            changed = self._take(request, answer.get("data") or {})
        firing = request.firing
        if firing.group is not None and not request.superseded:
            could = firing.output_props(self.layout)
            self._finished_groups.setdefault(firing.group, []).append((could, changed))

    def disconnected(self, unsent: set[str]) -> None:
        """The socket is gone: what was sent over it counts as ``prevent_update``.

        Args:
            unsent: requests that wait for the next socket.
        """
        for request in list(self.running.values()):
            if request.over_websocket and request.id not in unsent:
                self.answer(request.id, {"status": "prevent_update"})

    def reconnected(self, unsent: set[str]) -> None:
        """A new socket: callbacks without output and input are asked for again."""
        waiting = {self.running[i].spec for i in unsent if i in self.running}
        waiting |= {firing.spec for firing in (*self._requested, *self._queued)}
        self._requested += [
            Firing(spec, initial=True)
            for spec in self.graph.specs
            if spec.restarts and spec not in waiting
        ]

    # Stimuli: from the user and the browser

    def load(self, url: Url) -> None:
        """Everything is there: fire the initial callbacks, tell where the tab is."""
        self._requested += self.graph.fired_by_load(self.layout, group=next(self._group_numbers))
        for location in self._locations():
            props = location["props"]
            missing = {n: v for n, v in vars(url).items() if props.get(n) is None}
            self._edit(location, missing)

    def navigate(self, url: Url) -> None:
        """The address changed within the page (a ``dcc.Link``): Locations follow."""
        for location in self._locations():
            self._edit(location, vars(url))

    def edit(self, component_id: ComponentId, props: Mapping[str, Any]) -> None:
        """A user's edit. Properties that keep their value fire nothing.

        Raises:
            LookupError: the component is not in the page.
        """
        self._edit(self.layout[component_id], props)

    # The next requests

    def turn(self) -> list[Request]:
        """The requests that leave the page now.

        Call it after stimuli; those before one call count as simultaneous.
        """
        started: list[Request] = []
        while self._requested or self._queued:
            self._drop_duplicates()
            self._drop_orphans()
            ready = self._drop_pointless(self._ready())
            self._requested = [f for f in self._requested if f not in ready]
            self._queued += ready
            running = sum(not request.superseded for request in self.running.values())
            slots = max(0, MAX_RUNNING - running)
            starting, self._queued = self._queued[:slots], self._queued[slots:]
            if not starting and not ready:
                break
            for firing in starting:
                request = self._start(firing)
                if request is not None:
                    started.append(request)
        self._forget_finished_groups()
        return started

    def next_request_id(self) -> str:
        return f"{self.renderer_id}-{next(self._request_numbers)}"

    # Properties

    def _set(self, component_id: ComponentId, props: Mapping[str, Any], *, notify: bool) -> None:
        component = self.layout.find(component_id)
        if component is None:
            return  # the page warns in its console
        try:
            self._update(component, patched_props(props, component["props"]))
        except PatchError as error:
            self.errors.append(PageError(str(error)))
            return
        if notify:
            self._notify(component["props"]["id"], props)

    def _edit(self, component: Component, props: Mapping[str, Any]) -> None:
        old = component["props"]
        changed = {n: v for n, v in props.items() if n not in old or old[n] != v}
        self._update(component, changed)
        self._notify(old["id"], changed)

    def _update(self, component: Component, props: Mapping[str, Any]) -> None:
        self.layout.update(component, props)
        for name, value in props.items():
            key = prop_key(component["props"]["id"], name)
            self._values_seen[key] = self._values_seen.get(key, 0) + 1
            if key not in self._history:
                self._history[key] = deque(maxlen=self._history_limit)
            self._history[key].append(value)

    def _notify(self, component_id: ComponentId, props: Iterable[str]) -> None:
        for name in props:
            self._requested += self.graph.fired_by(component_id, name, self.layout)

    def _locations(self) -> list[Component]:
        return [
            component
            for component in self.layout.walk(self.layout.tree)
            if component.get("type") == "Location"
            and component.get("namespace") == "dash_core_components"
            and component["props"].get("id") is not None
        ]

    # Responses

    def _take(self, request: Request, data: Mapping[str, Any]) -> set[str]:
        """Apply the data of one response; returns the ``id.property`` it changed."""
        self._side_update(data.get("sideUpdate") or {}, request.payload)
        if request.superseded:
            return set()
        response = data.get("response") or {}
        if not data.get("multi"):
            component_id, dot, _ = request.spec.output.rpartition(".")
            if not dot:
                return set()
            ids = [component_key(i) for i in request.outputs] or [component_id]
            response = {ids[0]: response.get("props") or {}}
        changed: set[str] = set()
        for component_id, props in response.items():
            changed |= self._take_output(request, parse_id(component_id), props)
        return changed

    def _take_output(
        self, request: Request, component_id: ComponentId, props: Mapping[str, Any]
    ) -> set[str]:
        component = self.layout.find(component_id)
        if component is None:
            return set()
        try:
            props = patched_props(props, component["props"])
        except PatchError as error:
            self.errors.append(PageError(str(error), request.spec.output, request.id))
            return set()
        ancestors = (*request.firing.ancestors, request.spec)
        old = {name: component["props"].get(name) for name in props}
        self._update(component, props)
        firings: list[Firing] = []
        for name in props:
            firings += self.graph.fired_by(component_id, name, self.layout)
        for name, value in props.items():
            counts = bool(value) or isinstance(value, list | dict)  # an empty list is true in JS
            if counts and self.layout.holds_components(component, name):
                group = next(self._group_numbers)
                firings += self.graph.fired_by_chunk(value, self.layout, group=group)
                gone = self.layout.keys_in(old[name]) - self.layout.keys_in(value)
                firings += self.graph.fired_by_absence(map(parse_id, gone), self.layout)
        self._requested += [replace(firing, ancestors=ancestors) for firing in firings]
        return {prop_key(component_id, name) for name in props}

    def _side_update(self, updates: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        """``running=`` and the ``set_props`` of a callback over HTTP."""
        for position, (target, value) in enumerate(updates.items()):
            component_id, prop = _split_target(target)
            props = {prop: value} if prop else value
            for concrete in self._concrete_ids(component_id, payload, position):
                if concrete in self.layout:
                    self._set(concrete, props, notify=True)
                elif not self.config.get("suppress_callback_exceptions"):
                    key = component_key(concrete)
                    self.errors.append(
                        PageError(
                            f"ID running component not found in layout: {key!r}",
                            payload.get("output"),
                        )
                    )

    def _concrete_ids(
        self, component_id: ComponentId, payload: Mapping[str, Any], position: int
    ) -> list[ComponentId]:
        """What a pattern in ``running=`` stands for, given what triggered the callback."""
        if isinstance(component_id, str):
            return [component_id]
        concrete: dict[str, Any] = {}
        triggers = payload["parsedChangedPropsIds"]
        for name, value in component_id.items():
            if not isinstance(value, list):
                concrete[name] = value
                continue
            trigger = triggers[position if position < len(triggers) else 0] if triggers else {}
            bound = trigger.get(name) if isinstance(trigger, dict) else None
            if "MATCH" in value:
                concrete[name] = bound
                continue
            others = {n: v for n, v in component_id.items() if n != name}
            return [
                found
                for found in self.layout.ids_named(tuple(sorted(component_id)))
                if all(found[n] == v for n, v in others.items())
                and ("ALLSMALLER" not in value or found[name] < bound)
            ]
        return [concrete]

    # Scheduling: the steps of ``observers/requestedCallbacks.ts``

    def _drop_duplicates(self) -> None:
        """One firing per callback: the newest, with the changes of all of them."""
        merged: dict[tuple[str, str], Firing] = {}
        for firing in self._requested:
            if firing.spec in firing.ancestors:
                continue  # once around a circle is enough
            known = merged.get(firing.key)
            if known is None or (known.initial and not firing.initial):
                merged[firing.key] = firing
            elif firing.initial and not known.initial:
                continue
            else:
                changed = {**firing.changed, **known.changed}
                for prop in firing.changed.keys() & known.changed.keys():
                    changed[prop] = firing.changed[prop] or known.changed[prop]
                group = firing.group if firing.group is not None else known.group
                merged[firing.key] = replace(firing, changed=changed, group=group)
        self._requested = list(merged.values())
        self._queued = [firing for firing in self._queued if firing.key not in merged]
        for request in self.running.values():
            if request.firing.key in merged:
                request.superseded = True

    def _drop_orphans(self) -> None:
        """Callbacks none of whose outputs is in the page any more."""

        def orphan(firing: Firing) -> bool:
            return bool(firing.spec.outputs) and not any(firing.outputs(self.layout))

        self._requested = [firing for firing in self._requested if not orphan(firing)]
        self._queued = [firing for firing in self._queued if not orphan(firing)]
        for request in self.running.values():
            request.superseded |= orphan(request.firing)

    def _pending(self) -> list[Firing]:
        running = [r.firing for r in self.running.values() if not r.superseded]
        return [*self._requested, *self._queued, *running]

    def _ready(self) -> list[Firing]:
        """The requested callbacks of which no input is about to change."""
        if not self._requested:
            return []
        pending = self._pending()
        touched: set[str] = set()
        for firing in pending:
            touched |= self.graph.touched_by(firing, self.layout)
        ready = [f for f in self._requested if not self._waits_for(f, touched)]
        if ready or len(pending) > len(self._requested):
            return ready
        # A circle. Its first callback is the way in; the others know it as an
        # ancestor, so that they do not start it again.
        way_in, *others = self._requested
        outputs = way_in.output_props(self.layout)
        self._requested = [
            way_in,
            *(
                replace(other, ancestors=(*other.ancestors, way_in.spec))
                if self._waits_for(other, outputs)
                else other
                for other in others
            ),
        ]
        return [way_in]

    def _waits_for(self, firing: Firing, touched: set[str]) -> bool:
        inputs = firing.input_props(self.layout) - firing.output_props(self.layout)
        return not inputs.isdisjoint(touched)

    def _drop_pointless(self, ready: list[Firing]) -> list[Firing]:
        """Without those that waited for callbacks which then updated none of their inputs."""
        pointless = []
        for firing in ready:
            finished = self._finished_groups.get(firing.group or 0)
            if not finished or all(d.is_multi for d in firing.spec.inputs):
                continue
            inputs = firing.input_props(self.layout)
            could = set().union(*(outputs for outputs, _ in finished))
            did = set().union(*(updated for _, updated in finished))
            if inputs.isdisjoint(did) and inputs <= could:
                pointless.append(firing)
        self._requested = [firing for firing in self._requested if firing not in pointless]
        return [firing for firing in ready if firing not in pointless]

    def _forget_finished_groups(self) -> None:
        alive = {firing.group for firing in self._pending()}
        for group in self._finished_groups.keys() - alive:
            del self._finished_groups[group]

    # Requests

    def _start(self, firing: Firing) -> Request | None:
        spec = firing.spec
        if spec.background:
            self.errors.append(
                PageError("background callbacks are not run by this page", spec.output)
            )
            return None
        try:
            inputs = self._fill(firing, spec.inputs, "Input", all_may_be_missing=True)
            if inputs is None:
                return None
            outputs = self._fill_outputs(firing, fail=bool(inputs))
            if outputs is None:
                return None
            state = self._fill(firing, spec.state, "State") if spec.state else None
        except _Unresolvable as error:
            self.errors.append(PageError(str(error), spec.output))
            return None
        changed = list(firing.changed)
        payload: dict[str, Any] = {"output": spec.output}
        if spec.outputs:
            payload["outputs"] = outputs if spec.has_many_outputs else outputs[0]
        payload["inputs"] = inputs
        payload["changedPropIds"] = changed
        payload["parsedChangedPropsIds"] = [_parse_changed(prop_id) for prop_id in changed]
        if state is not None:
            payload["state"] = state
        websocket = self.websocket
        over_websocket = websocket is not None and bool(websocket.get("enabled") or spec.websocket)
        request = Request(
            id=self.next_request_id() if over_websocket else f"http-{self.next_request_id()}",
            spec=spec,
            payload=payload,
            over_websocket=over_websocket,
            firing=firing,
            outputs=[ids[0] for ids in firing.outputs(self.layout) if ids],
        )
        self.running[request.id] = request
        if spec.running:
            self._side_update(spec.running.get("running") or {}, payload)
        return request

    def _fill(
        self,
        firing: Firing,
        dependencies: Iterable[Dependency],
        kind: str,
        *,
        all_may_be_missing: bool = False,
    ) -> list[Any] | None:
        """The payload's entries for inputs or states; ``None``: all are missing, skip."""
        entries: list[Any] = []
        errors = []
        empty = 0
        for dependency in dependencies:
            found = [
                self._entry(component_id, dependency.prop)
                for component_id in firing.resolve(dependency, self.layout)
            ]
            if dependency.is_multi:
                empty += not found
                entries.append(found)
            elif len(found) == 1:
                entries.append(found[0])
            elif not found and dependency.optional:
                entries.append({"id": dependency.id, "property": dependency.prop, "value": None})
            else:
                errors.append(self._mismatch(dependency, kind, found))
                entries.append(None)
        if not errors:
            return entries
        if all_may_be_missing and len(errors) + empty == len(entries):
            return None
        raise _Unresolvable(errors[0])

    def _fill_outputs(self, firing: Firing, *, fail: bool) -> list[Any] | None:
        entries: list[Any] = []
        for dependency, ids in zip(firing.spec.outputs, firing.outputs(self.layout), strict=True):
            found = [{"id": found_id, "property": dependency.prop} for found_id in ids]
            if dependency.is_multi:
                entries.append(found)
            elif len(found) == 1:
                entries.append(found[0])
            elif fail:
                raise _Unresolvable(self._mismatch(dependency, "Output", found))
            else:
                return None
        return entries

    def _entry(self, component_id: ComponentId, prop: str) -> dict[str, Any]:
        entry = {"id": component_id, "property": prop}
        props = self.layout[component_id]["props"]
        if prop in props:  # JSON leaves ``undefined`` out
            entry["value"] = props[prop]
        return entry

    def _mismatch(self, dependency: Dependency, kind: str, found: list[Any]) -> str:
        what = "Multiple objects were" if found else "A nonexistent object was"
        return (
            f"{what} used in an `{kind}` of a Dash callback. The id of this object is "
            f"`{dependency.id}` and the property is `{dependency.prop}`."
        )


def _at_path(value: Any, path: Any) -> Any:
    """Dash 4.5's ``get_prop(path=)``: a place inside the property's value."""
    for step in path or ():
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _parse_changed(prop_id: str) -> Any:
    """As the page does: a dict id loses its property, a plain one keeps it."""
    return parse_id(prop_id[: prop_id.rindex("}") + 1]) if prop_id.startswith("{") else prop_id


def _split_target(target: str) -> tuple[ComponentId, str]:
    if target.startswith("{"):
        end = target.rindex("}") + 1
        return parse_id(target[:end]), target[end + 1 :]
    component_id, _, prop = target.partition(".")
    return component_id, prop
