"""What a Patch does to the old value of a property, as the page does it.

Knows: the operations of ``dash.Patch`` as they travel on the wire, and the
JavaScript that applies them (``dash-renderer``, ``actions/patch.ts``). Values
are never changed in place: an operation gives a new value that shares what it
left alone with the old one.
Refuses to know: components, pages, sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["PatchError", "apply_patch", "is_patch", "patched_props"]

Path = list[str | int]


class PatchError(ValueError):
    """A Patch that the page cannot apply (it would throw in the browser)."""


class _Missing:
    """JavaScript's ``undefined``: nothing is there, not even ``null``."""


_MISSING = _Missing()


def is_patch(value: Any) -> bool:
    """Is this wire value a Patch, not a plain value?"""
    return isinstance(value, dict) and "__dash_patch_update" in value


def patched_props(props: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """``props`` with every Patch in it replaced by what it makes of ``old``.

    Raises:
        PatchError: a Patch for a property that has no value yet, or an
            operation that does not fit the value.
    """
    result = {}
    for name, value in props.items():
        if is_patch(value):
            if name not in old:
                raise PatchError("Cannot patch undefined")
            value = apply_patch(old[name], value["operations"])
        result[name] = value
    return result


def apply_patch(value: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply the operations of one Patch, in order, and return the new value.

    Raises:
        PatchError: an unknown operation, or one that does not fit the value.
    """
    for step in operations:
        name = step["operation"]
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise PatchError(f"Invalid Operation {name}")
        location = _locate(step["location"], value)
        try:
            value = operation(value, location, step.get("params", {}))
        except (TypeError, KeyError, AttributeError) as error:
            raise PatchError(f"{name} at {location} does not fit the value: {error}") from error
    return value


# Where things are. A location is a list of keys and indices; negative indices
# count from the end of the list that stands there.


def _from_end(index: Any, container: Any) -> Any:
    if isinstance(index, int) and index < 0 and isinstance(container, list | str):
        return len(container) + index
    return index


def _locate(location: Path, value: Any) -> Path:
    found: Path = []
    for key in location:
        key = _from_end(key, value)
        found.append(key)
        value = _child(value, key)
    return found


def _child(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key, _MISSING)
    if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    return _MISSING


def _look(value: Any, location: Path) -> Any:
    for key in location:
        value = _child(value, key)
    return value


def _put(value: Any, location: Path, new: Any) -> Any:
    """``value`` with ``new`` at ``location``; what is missing on the way is made."""
    if not location:
        return new
    key, rest = location[0], location[1:]
    if isinstance(key, int) and not isinstance(value, dict):
        items = list(value) if isinstance(value, list) else []
        items.extend([None] * (key + 1 - len(items)))
        items[key] = _put(items[key], rest, new)
        return items
    entries = dict(value) if isinstance(value, dict) else {}
    entries[str(key)] = _put(entries.get(str(key)), rest, new)
    return entries


def _drop(value: Any, location: Path) -> Any:
    if not location:
        return value
    key, rest = location[0], location[1:]
    child = _child(value, key)
    if isinstance(child, _Missing):
        return value
    if rest:
        return _put(value, [key], _drop(child, rest))
    if isinstance(value, list):
        return [item for index, item in enumerate(value) if index != key]
    return {name: item for name, item in value.items() if name != key}


# The operations, named as on the wire. Each takes the whole old value, where to
# act, and its parameters.

Params = Mapping[str, Any]


def _on_target(change: Callable[[Any, Params], Any]) -> Callable[[Any, Path, Params], Any]:
    """An operation that replaces what stands at its location by ``change`` of it."""

    def operation(value: Any, location: Path, params: Params) -> Any:
        return _put(value, location, change(_look(value, location), params))

    return operation


def _assign(_old: Any, params: Params) -> Any:
    return params["value"]


def _merge(old: Any, params: Params) -> Any:
    return {**(old if isinstance(old, dict) else {}), **params["value"]}


def _extend(old: Any, params: Params) -> Any:
    if type(old) is not type(params["value"]):
        raise TypeError("only lists extend lists")
    return old + params["value"]


def _insert(old: Any, params: Params) -> Any:
    items = _list(old)
    index = _from_end(params["index"], items)
    if not 0 <= index < len(items):  # the page appends what does not fit
        index = len(items)
    return [*items[:index], params["value"], *items[index:]]


def _append(old: Any, params: Params) -> Any:
    return [*_list(old), params["value"]]


def _prepend(old: Any, params: Params) -> Any:
    return [params["value"], *_list(old)]


def _add(old: Any, params: Params) -> Any:
    value = params["value"]
    if isinstance(old, str) and isinstance(value, str):
        return old + value
    return _number(old) + _number(value)


def _sub(old: Any, params: Params) -> Any:
    return _number(old) - _number(params["value"])


def _mul(old: Any, params: Params) -> Any:
    return _number(old) * _number(params["value"])


def _div(old: Any, params: Params) -> Any:
    dividend, divisor = _number(old), _number(params["value"])
    if divisor == 0:  # JavaScript goes on where Python stops
        return float("nan") if dividend == 0 else float("inf") * (1 if dividend > 0 else -1)
    return dividend / divisor


def _clear(old: Any, _params: Params) -> Any:
    if not isinstance(old, dict | list | str):
        raise TypeError("only lists, dicts and strings can be cleared")
    return type(old)()


def _reverse(old: Any, _params: Params) -> Any:
    if not isinstance(old, list | str):
        raise TypeError("only lists and strings can be reversed")
    return old[::-1]


def _remove(old: Any, params: Params) -> Any:
    """Every equal item goes, not only the first as in Python."""
    return [item for item in _list(old) if not _equal(item, params["value"])]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _number(value: Any) -> float:
    if value is None:  # null counts as 0 in JavaScript's arithmetic
        return 0
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return value


def _equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: ``1`` is not ``true``."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


_OPERATIONS: dict[str, Callable[[Any, Path, Params], Any]] = {
    "Assign": _on_target(_assign),
    "Merge": _on_target(_merge),
    "Extend": _on_target(_extend),
    "Delete": lambda value, location, _params: _drop(value, location),
    "Insert": _on_target(_insert),
    "Append": _on_target(_append),
    "Prepend": _on_target(_prepend),
    "Add": _on_target(_add),
    "Sub": _on_target(_sub),
    "Mul": _on_target(_mul),
    "Div": _on_target(_div),
    "Clear": _on_target(_clear),
    "Reverse": _on_target(_reverse),
    "Remove": _on_target(_remove),
}
