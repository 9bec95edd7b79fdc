"""The components of a page and their properties.

Knows: the tree that ``_dash-layout`` serves, where components hide in it
(``children`` and the other properties that hold components), and ids, plain and
dict.
Refuses to know: callbacks, and who changes a property or why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Component", "ComponentId", "Layout", "component_key", "parse_id", "prop_key"]

Component = dict[str, Any]
ComponentId = str | dict[str, Any]
Keys = tuple[str, ...]


def component_key(component_id: ComponentId) -> str:
    """The id as one string: itself, or a dict id as the page stringifies it.

    Keys are sorted, so that however Python or the browser wrote a dict id, the
    result is the same.
    """
    parsed = parse_id(component_id)
    if isinstance(parsed, str):
        return parsed
    parts = (f"{json.dumps(name)}:{_scalar(parsed[name])}" for name in sorted(parsed))
    return "{" + ",".join(parts) + "}"


def _scalar(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JavaScript has one kind of number
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_id(component_id: ComponentId) -> ComponentId:
    """A dict id that travelled as a string, as a dict again; others unchanged."""
    if (
        isinstance(component_id, str)
        and component_id.startswith("{")
        and component_id.endswith("}")
    ):
        try:
            parsed = json.loads(component_id)
        except ValueError:
            return component_id
        return parsed if isinstance(parsed, dict) else component_id
    return component_id


def prop_key(component_id: ComponentId, prop: str) -> str:
    """``id.property``, as ``changedPropIds`` names it."""
    return f"{component_key(component_id)}.{prop}"


class Layout:
    """The component tree, and an index of it by id.

    Args:
        tree: what ``_dash-layout`` served.
        children_props: ``{namespace: {type: [property, ...]}}``: which properties
            besides ``children`` hold components, as the page's config lists them.
            ``options[].label`` and ``items{}.icon`` look inside lists and dicts.
    """

    def __init__(
        self, tree: Any, children_props: Mapping[str, Mapping[str, list[str]]] | None = None
    ) -> None:
        self.tree = tree
        self._children_props = children_props or {}
        self._by_key: dict[str, Component] = {}
        self._by_names: dict[Keys, list[dict[str, Any]]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Index the tree again, after components came or went."""
        self._by_key = {}
        self._by_names = {}
        for component in self.walk(self.tree):
            component_id = component["props"].get("id")
            if component_id is None:
                continue
            key = component_key(component_id)
            known = key in self._by_key
            self._by_key[key] = component
            if isinstance(component_id, dict) and not known:
                self._by_names.setdefault(tuple(sorted(component_id)), []).append(component_id)

    def __contains__(self, component_id: ComponentId) -> bool:
        return component_key(component_id) in self._by_key

    def __getitem__(self, component_id: ComponentId) -> Component:
        """The component with this id.

        Raises:
            LookupError: there is none in the page now; the message lists the ids.
        """
        component = self.find(component_id)
        if component is None:
            known = ", ".join(sorted(self._by_key)) or "none"
            raise LookupError(
                f"no component with id {component_key(component_id)!r} in the page; "
                f"the ids in it are: {known}"
            )
        return component

    def find(self, component_id: ComponentId) -> Component | None:
        return self._by_key.get(component_key(component_id))

    def ids_named(self, names: Keys) -> list[dict[str, Any]]:
        """Every dict id with exactly these (sorted) names, in layout order."""
        return self._by_names.get(names, [])

    def update(self, component: Component, props: Mapping[str, Any]) -> None:
        """Set properties of one component; the index follows."""
        old = component["props"]
        nested = any(
            (isinstance(value, dict | list) or isinstance(old.get(name), dict | list))
            and self.holds_components(component, name)
            for name, value in props.items()
        )
        old.update(props)
        if nested:
            self.refresh()

    def keys_in(self, subtree: Any) -> set[str]:
        """The keys of the components with an id in a part of the tree."""
        return {
            component_key(component["props"]["id"])
            for component in self.walk(subtree)
            if component["props"].get("id") is not None
        }

    def holds_components(self, component: Component, prop: str) -> bool:
        """Is this one of the properties in which the page looks for components?"""
        return any(steps[0] == prop for steps in self._ways_down(component))

    def walk(self, subtree: Any) -> Iterator[Component]:
        """Every component of a part of the tree, outer ones first."""
        if isinstance(subtree, list):
            for item in subtree:
                yield from self.walk(item)
        elif isinstance(subtree, dict) and isinstance(subtree.get("props"), dict):
            yield subtree
            for steps in self._ways_down(subtree):
                for nested in _values_at(subtree["props"], steps):
                    yield from self.walk(nested)

    def _ways_down(self, component: Component) -> Iterator[list[str]]:
        yield ["children"]
        namespace = self._children_props.get(component.get("namespace", ""), {})
        for pattern in namespace.get(component.get("type", ""), ()):
            spaced = pattern.replace("[]", ".[]").replace("{}", ".{}")
            yield [step for step in spaced.split(".") if step]


def _values_at(value: Any, steps: list[str]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if step == "[]":
        items = value if isinstance(value, list) else []
    elif step == "{}":
        items = list(value.values()) if isinstance(value, dict) else []
    else:
        items = [value[step]] if isinstance(value, dict) and step in value else []
    for item in items:
        yield from _values_at(item, rest)
