"""The knobs of the runtime, checked where they are set.

Knows names, units, defaults and what is allowed; nothing of what they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Mode = Literal["async", "hybrid", "threads"]

Identify = Callable[[Any], object]
"""Tells who a connection belongs to, from the framework's WebSocket; may be async."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every knob of `WebSocketRuntime`; see there for what each one means."""

    mode: Mode
    cleanup_timeout: float
    send_timeout: float
    silence_timeout: float | None
    tab_timeout: float
    drain_rate: float
    max_outbox_bytes: int
    max_message_bytes: int
    compression: bool
    max_messages_per_second: float
    max_bad_messages: int
    max_callbacks: int
    max_reads: int
    max_connections: int
    hook_timeout: float
    identify: Identify | None
    max_workers: int | None
    blocked_after: float | None
    tune_gc: bool

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            allowed = ", ".join(repr(mode) for mode in get_args(Mode))
            raise ValueError(f"WebSocketRuntime(mode={self.mode!r}): must be one of {allowed}")
        _check_seconds("cleanup_timeout", self.cleanup_timeout)
        _check_seconds("send_timeout", self.send_timeout)
        if self.silence_timeout is not None:
            _check_seconds("silence_timeout", self.silence_timeout)
        _check_seconds("tab_timeout", self.tab_timeout)
        _check_number("drain_rate", self.drain_rate, "connections per second")
        _check_count("max_outbox_bytes", self.max_outbox_bytes, least=1024, unit="bytes")
        _check_count("max_message_bytes", self.max_message_bytes, least=1024, unit="bytes")
        _check_bool("compression", self.compression)
        _check_number("max_messages_per_second", self.max_messages_per_second, "messages")
        _check_count("max_bad_messages", self.max_bad_messages, least=1, unit="messages")
        _check_count("max_callbacks", self.max_callbacks, least=1, unit="callbacks")
        _check_count("max_reads", self.max_reads, least=1, unit="reads")
        _check_count("max_connections", self.max_connections, least=1, unit="connections")
        _check_seconds("hook_timeout", self.hook_timeout)
        if self.identify is not None and not callable(self.identify):
            raise TypeError(f"WebSocketRuntime(identify={self.identify!r}): must be a function")
        if self.max_workers is not None:
            _check_count("max_workers", self.max_workers, least=1, unit="threads")
        if self.blocked_after is not None:
            _check_seconds("blocked_after", self.blocked_after)
        _check_bool("tune_gc", self.tune_gc)


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"WebSocketRuntime({name}={value!r}): must be a bool")


def _check_seconds(name: str, value: object) -> None:
    _check_number(name, value, "seconds")


def _check_number(name: str, value: object, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"WebSocketRuntime({name}={value!r}): must be a number of {unit}")
    if not 0 < value < math.inf:
        raise ValueError(
            f"WebSocketRuntime({name}={value!r}): must be a finite number of {unit} above 0"
        )


def _check_count(name: str, value: object, *, least: int, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"WebSocketRuntime({name}={value!r}): must be a whole number of {unit}")
    if value < least:
        raise ValueError(f"WebSocketRuntime({name}={value!r}): must be at least {least} {unit}")
