"""How many files, and so sockets, this process may have open at once."""

from __future__ import annotations

import sys
from contextlib import suppress

if sys.platform != "win32":
    import resource


def allow_descriptors(count: int) -> int:
    """Let this process have so many, or as many as the system's hard limit lets it.

    Returns:
        How many of them it may have now.
    """
    if sys.platform == "win32":
        return count  # has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with suppress(OSError, ValueError):  # macOS has one more limit, which is not to be had
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft
