"""Where running code stands, for people who have to find it: ``file:line in function``.

Of all that is on the way from a callback to what it waits for, the innermost
place in the user's own code says the most.
"""

from __future__ import annotations

import gc
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(__file__).parent), "<frozen "}
)

UNKNOWN = "an unknown place"


def of_awaitable(awaitable: Any, home: str = "") -> str:
    """Where a suspended coroutine (or generator) stands.

    Args:
        home: a file that is the user's, wherever it is installed.
    """
    return of_frames(_frames_of(awaitable), home)


def of_thread(thread_id: int, home: str = "") -> str:
    """Where another thread stands at this moment.

    Args:
        thread_id: as ``threading.get_ident`` gives it.
        home: a file that is the user's, wherever it is installed.
    """
    return of_frames(reversed(list(frames_of_thread(thread_id))), home)


def frames_of_thread(thread_id: int) -> Iterator[FrameType]:
    """What a thread runs at this moment, from the inside out; nothing if there is no such.

    Args:
        thread_id: as ``threading.get_ident`` gives it.
    """
    frame = sys._current_frames().get(thread_id)  # documented, for debuggers
    while frame is not None:
        yield frame
        frame = frame.f_back


def of_frames(frames: Iterable[FrameType], home: str = "") -> str:
    """The innermost of these places in the user's code, or, where there is none, the innermost.

    Args:
        frames: from the outside in.
        home: a file that is the user's, wherever it is installed.
    """
    found: tuple[CodeType, int] | None = None
    in_users = False
    for frame in frames:
        file = frame.f_code.co_filename
        is_users = file == home or not file.startswith(_LIBRARIES)
        if is_users or not in_users:
            found, in_users = (frame.f_code, frame.f_lineno), is_users
    if found is None:
        return UNKNOWN
    code, line = found
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def _frames_of(awaitable: Any) -> Iterator[FrameType]:
    """The frames from the outside in, up to what has none: a future, say."""
    while True:
        if inspect.iscoroutine(awaitable):
            frame, inner = awaitable.cr_frame, awaitable.cr_await
        elif inspect.isgenerator(awaitable):
            frame, inner = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif inspect.isasyncgen(awaitable):
            frame, inner = awaitable.ag_frame, awaitable.ag_await
        elif type(awaitable).__name__ == "async_generator_asend":  # it does not name its generator
            generators = filter(inspect.isasyncgen, gc.get_referents(awaitable))
            frame, inner = None, next(generators, None)
        else:
            return
        if frame is not None:
            yield frame
        awaitable = inner
