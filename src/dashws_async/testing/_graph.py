"""Which callbacks a change of the page concerns, and with which components.

Knows: the callbacks that ``_dash-dependencies`` serves, their inputs, states and
outputs, and pattern-matching ids (``MATCH``, ``ALL``, ``ALLSMALLER``): what the
page works out in ``actions/dependencies.js`` and ``dependencies_ts.ts``.
Refuses to know: values, requests, and when a callback may run.

A *dependency* is an id (or id pattern) and a property. A *spec* is one callback
as the server declared it. A *firing* is one spec made concrete: the components
that its ``MATCH`` stands for, and the changes that asked for it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._layout import ComponentId, Layout, component_key, prop_key

__all__ = ["CallbackSpec", "Dependency", "Firing", "Graph", "Wildcard"]


class Wildcard(enum.Enum):
    MATCH = "MATCH"
    ALL = "ALL"
    ALLSMALLER = "ALLSMALLER"


Names = tuple[str, ...]
Values = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Dependency:
    """An id or id pattern, and a property of it."""

    id: ComponentId
    """A plain id, or a dict whose values may be `Wildcard` members."""
    prop: str
    """With ``@hash`` where an output is declared with ``allow_duplicate``."""
    optional: bool = False

    @property
    def names(self) -> Names:
        return tuple(sorted(self.id)) if isinstance(self.id, dict) else ()

    @property
    def pattern(self) -> Values:
        return tuple(self.id[name] for name in self.names) if isinstance(self.id, dict) else ()

    @property
    def is_multi(self) -> bool:
        """Does it stand for a list of components (``ALL`` or ``ALLSMALLER`` in it)?"""
        return Wildcard.ALL in self.pattern or Wildcard.ALLSMALLER in self.pattern


@dataclass(frozen=True, eq=False)
class CallbackSpec:
    """One callback as the server declared it."""

    output: str
    """The identity on the wire: ``id.prop``, ``..id.prop...id.prop..`` or a hash."""
    outputs: tuple[Dependency, ...]
    inputs: tuple[Dependency, ...]
    state: tuple[Dependency, ...]
    prevent_initial_call: bool
    websocket: bool
    persistent: bool
    background: bool
    running: Mapping[str, Any] | None
    """``{"running": {prop: value}, "runningOff": {prop: value}}`` of ``running=``."""

    @property
    def has_many_outputs(self) -> bool:
        return self.output.startswith("..")

    @property
    def restarts(self) -> bool:
        """Does the page send it again after a reconnect? (no output and no input)"""
        return not self.outputs and not self.inputs

    @property
    def match_names(self) -> Names:
        """The names that are ``MATCH`` in the outputs (the same in all of them)."""
        if not self.outputs:
            return ()
        first = self.outputs[0]
        pairs = zip(first.names, first.pattern, strict=True)
        return tuple(name for name, value in pairs if value is Wildcard.MATCH)

    @classmethod
    def parse(cls, declared: Mapping[str, Any]) -> CallbackSpec:
        """From one entry of ``_dash-dependencies``."""
        output: str = declared["output"]
        if declared.get("no_output"):
            outputs: list[str] = []
        elif output.startswith(".."):
            outputs = output[2:-2].split("...")
        else:
            outputs = [output]
        return cls(
            output=output,
            outputs=tuple(_parse_output(item) for item in outputs),
            inputs=tuple(map(_parse_dependency, declared["inputs"])),
            state=tuple(map(_parse_dependency, declared.get("state") or ())),
            prevent_initial_call=bool(declared.get("prevent_initial_call")),
            websocket=bool(declared.get("websocket")),
            persistent=bool(declared.get("persistent")),
            background=bool(declared.get("background")),
            running=declared.get("running"),
        )


def _parse_output(id_and_prop: str) -> Dependency:
    component_id, _, prop = id_and_prop.rpartition(".")  # ids may hold dots, properties not
    try:
        return Dependency(_parse_pattern(component_id), prop)
    except ValueError:
        raise ValueError(
            f"Output {id_and_prop!r}: no browser can load a page with this. Dash writes a dot in a "
            "dict id as '\\.', which is no JSON; use an id without dots, and without floats"
        ) from None


def _parse_dependency(declared: Mapping[str, Any]) -> Dependency:
    return Dependency(
        _parse_pattern(declared["id"]),
        declared["property"],
        bool(declared.get("allow_optional")),
    )


def _parse_pattern(component_id: str) -> ComponentId:
    if not component_id.startswith("{"):
        return component_id
    return {
        name: Wildcard(value[0]) if isinstance(value, list) else value
        for name, value in json.loads(component_id).items()
    }


@dataclass(frozen=True, eq=False)
class _Anchor:
    """The concrete id against which the wildcards of a firing are resolved."""

    names: Names
    values: Values
    pattern: Values

    @property
    def matched(self) -> Values:
        """The values that ``MATCH`` stands for."""
        pairs = zip(self.pattern, self.values, strict=True)
        return tuple(value for wild, value in pairs if wild is Wildcard.MATCH)


@dataclass(frozen=True, eq=False)
class Firing:
    """A callback that is to run: which, for which components, and because of what."""

    spec: CallbackSpec
    anchor: _Anchor | None = None
    matched: Values = ()
    changed: Mapping[str, bool] = field(default_factory=dict)
    """``id.property`` of each changed input; ``True`` where it did change, ``False``
    where a callback before this one may yet change it."""
    initial: bool = False
    group: int | None = None
    """Firings that one new piece of layout asked for share a group."""
    ancestors: tuple[CallbackSpec, ...] = ()
    """The callbacks whose results led here: none of them is run in a circle."""

    @property
    def key(self) -> tuple[str, str]:
        """Two firings with the same key are the same work."""
        return self.spec.output, json.dumps(self.matched)

    def outputs(self, layout: Layout) -> list[list[ComponentId]]:
        return [self.resolve(dependency, layout) for dependency in self.spec.outputs]

    def resolve(self, dependency: Dependency, layout: Layout) -> list[ComponentId]:
        """The components in the layout that a dependency of this firing stands for."""
        return _resolve(dependency, layout, self.anchor)

    def output_props(self, layout: Layout) -> set[str]:
        return self._props(self.spec.outputs, layout)

    def input_props(self, layout: Layout) -> set[str]:
        return self._props(self.spec.inputs, layout)

    def _props(self, dependencies: Iterable[Dependency], layout: Layout) -> set[str]:
        return {
            prop_key(component_id, dependency.prop)
            for dependency in dependencies
            for component_id in self.resolve(dependency, layout)
        }


@dataclass(frozen=True, eq=False)
class _Pattern:
    """The callbacks that name one id pattern and property."""

    values: Values
    specs: list[CallbackSpec]


class _Index:
    """Callbacks by the id or id pattern, and the property, of a dependency."""

    def __init__(self) -> None:
        self._plain: dict[str, dict[str, list[CallbackSpec]]] = {}
        self._patterns: dict[Names, dict[str, list[_Pattern]]] = {}

    def add(self, dependency: Dependency, spec: CallbackSpec) -> None:
        prop = dependency.prop
        if isinstance(dependency.id, str):
            self._plain.setdefault(dependency.id, {}).setdefault(prop, []).append(spec)
            return
        patterns = self._patterns.setdefault(dependency.names, {}).setdefault(prop, [])
        for pattern in patterns:
            if pattern.values == dependency.pattern:
                pattern.specs.append(spec)
                return
        patterns.append(_Pattern(dependency.pattern, [spec]))

    def properties(self, component_id: ComponentId) -> list[str]:
        if isinstance(component_id, str):
            return list(self._plain.get(component_id, ()))
        return list(self._patterns.get(tuple(sorted(component_id)), ()))

    def find(
        self, component_id: ComponentId, prop: str
    ) -> Iterator[tuple[CallbackSpec, _Anchor | None]]:
        if isinstance(component_id, str):
            for spec in self._plain.get(component_id, {}).get(prop, ()):
                yield spec, None
            return
        names = tuple(sorted(component_id))
        values = tuple(component_id[name] for name in names)
        for pattern in self._patterns.get(names, {}).get(prop, ()):
            if _id_matches(names, values, pattern.values, None):
                for spec in pattern.specs:
                    yield spec, _Anchor(names, values, pattern.values)


class Graph:
    """Every callback of the app, and who is asked for by what.

    Clientside callbacks are left out: there is no browser to run them.
    """

    def __init__(self, dependencies: Iterable[Mapping[str, Any]]) -> None:
        self.specs = [
            CallbackSpec.parse(declared)
            for declared in dependencies
            if not declared.get("clientside_function")
        ]
        self._inputs = _Index()
        self._outputs = _Index()
        for spec in self.specs:
            for dependency in spec.inputs:
                self._inputs.add(dependency, spec)
            for dependency in spec.outputs:
                self._outputs.add(dependency, spec)

    def watches(self, component_id: ComponentId, prop: str) -> bool:
        """Is this property an input of any callback?"""
        return any(True for _ in self._inputs.find(component_id, prop))

    def fired_by(
        self, component_id: ComponentId, prop: str, layout: Layout, *, changed: bool = True
    ) -> list[Firing]:
        """The callbacks that a change of this property asks for."""
        key = prop_key(component_id, prop)
        return [
            replace(firing, changed={key: changed})
            for spec, anchor in self._inputs.find(component_id, prop)
            for firing in _firings(spec, anchor, layout)
        ]

    def fired_by_chunk(
        self, chunk: Any, layout: Layout, *, group: int, whole_page: bool = False
    ) -> list[Firing]:
        """The callbacks that a new piece of layout asks for.

        Those with an output in it, unless they have ``prevent_initial_call``; and,
        where the piece is not the whole page, those with an input in it and an
        output outside of it.
        """
        inside = layout.keys_in(chunk)
        found: dict[tuple[str, str], Firing] = {}

        def add(firing: Firing) -> None:
            known = found.get(firing.key, firing)
            found[firing.key] = replace(
                known,
                changed={**firing.changed, **known.changed},
                initial=known.initial or firing.initial,
                group=group,
            )

        for component in layout.walk(chunk):
            component_id = component["props"].get("id")
            if component_id is None:
                continue
            for prop in self._outputs.properties(component_id):
                for spec, anchor in list(self._outputs.find(component_id, prop))[:1]:
                    if not spec.prevent_initial_call:
                        add(Firing(spec, anchor, anchor.matched if anchor else (), initial=True))
            if whole_page:
                continue
            for prop in self._inputs.properties(component_id):
                for firing in self.fired_by(component_id, prop, layout, changed=False):
                    outputs = {component_key(i) for ids in firing.outputs(layout) for i in ids}
                    if not outputs <= inside:
                        add(firing)
        return _with_live_inputs(list(found.values()), layout)

    def fired_by_absence(self, gone: Iterable[ComponentId], layout: Layout) -> list[Firing]:
        """The callbacks with an ``ALL`` input of which some components have gone.

        Args:
            gone: dict ids that are not in the layout any more.
            layout: the layout without them.
        """
        found: dict[tuple[str, str], Firing] = {}
        for component_id in gone:
            for prop in self._inputs.properties(component_id):
                for spec, anchor in self._inputs.find(component_id, prop):
                    if not any(d.is_multi for d in spec.inputs):
                        continue
                    for firing in _firings(spec, anchor, layout):
                        if any(firing.outputs(layout)):
                            found[firing.key] = replace(firing, initial=True)
        return list(found.values())

    def fired_by_load(self, layout: Layout, *, group: int) -> list[Firing]:
        """The callbacks that the load of the page asks for."""
        firings = self.fired_by_chunk(layout.tree, layout, group=group, whole_page=True)
        for spec in self.specs:
            if spec.prevent_initial_call or (spec.outputs and spec.inputs):
                continue
            firing = Firing(spec, initial=True)
            sought = spec.outputs or spec.inputs
            if not sought or any(firing.resolve(item, layout) for item in sought):
                firings.append(firing)
        return firings

    def touched_by(self, firing: Firing, layout: Layout) -> set[str]:
        """Every output that this firing, and all it leads to, may yet change."""
        touched: set[str] = set()
        firings = [firing]
        while firings:
            reached = []
            for current in firings:
                for dependency in current.spec.outputs:
                    for component_id in current.resolve(dependency, layout):
                        key = prop_key(component_id, dependency.prop)
                        if key not in touched:
                            touched.add(key)
                            reached += self.fired_by(component_id, dependency.prop, layout)
            firings = reached
        return touched


def _firings(spec: CallbackSpec, anchor: _Anchor | None, layout: Layout) -> Iterator[Firing]:
    """The firings of a callback that a change of the anchor's component asks for.

    One per combination of ``MATCH`` values in the outputs (an ``ALLSMALLER`` input
    may concern several); without ``MATCH`` in the outputs one, told apart by the
    ``MATCH`` values of the input.
    """
    match_names = spec.match_names
    if not match_names:
        yield Firing(spec, anchor, anchor.matched if anchor else ())
        return
    single = [output for output in spec.outputs if not output.is_multi]
    seen: set[str] = set()
    for output in single[:1] or spec.outputs:
        for component_id in _resolve(output, layout, anchor):
            assert isinstance(component_id, dict)
            values = tuple(component_id[name] for name in output.names)
            resolved = _Anchor(output.names, values, output.pattern)
            if (key := json.dumps(resolved.matched)) not in seen:
                seen.add(key)
                yield Firing(spec, resolved, resolved.matched)


def _with_live_inputs(firings: list[Firing], layout: Layout) -> list[Firing]:
    """Without the firings whose inputs are all missing, or come only from such ones."""
    dead: set[str] = set()
    while True:
        excluded = [
            firing
            for firing in firings
            if not all(dependency.is_multi for dependency in firing.spec.inputs)
            and firing.input_props(layout) <= dead
        ]
        if not excluded:
            return firings
        firings = [firing for firing in firings if firing not in excluded]
        for firing in excluded:
            dead |= firing.output_props(layout)


def _resolve(dependency: Dependency, layout: Layout, anchor: _Anchor | None) -> list[ComponentId]:
    if isinstance(dependency.id, str):
        return [dependency.id] if dependency.id in layout else []
    names, pattern = dependency.names, dependency.pattern
    return [
        component_id
        for component_id in layout.ids_named(names)
        if _id_matches(names, tuple(component_id[n] for n in names), pattern, anchor)
    ]


def _id_matches(names: Names, values: Values, pattern: Values, anchor: _Anchor | None) -> bool:
    for name, value, wanted in zip(names, values, pattern, strict=True):
        if not isinstance(wanted, Wildcard):
            if isinstance(wanted, bool) != isinstance(value, bool) or wanted != value:
                return False
        elif anchor is not None and wanted is not Wildcard.ALL and name in anchor.names:
            index = anchor.names.index(name)
            order = _compare(value, anchor.values[index])
            if wanted is Wildcard.ALLSMALLER:
                fits = order < 0
            elif anchor.pattern[index] is Wildcard.ALLSMALLER:
                fits = order > 0
            else:
                fits = order == 0
            if not fits:
                return False
    return True


def _compare(one: Any, other: Any) -> int:
    """The page's order of id values: numbers, booleans, then other strings."""
    one_ranked, other_ranked = _rank(one), _rank(other)
    return (one_ranked > other_ranked) - (one_ranked < other_ranked)


def _rank(value: Any) -> tuple[int, Any]:
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 0, value
    try:
        return 0, float(value)  # "10" counts as a number
    except ValueError:
        return 2, value
