"""The `dashws` command; also `python -m dashws_async`."""

from __future__ import annotations

import math
import sys

import click  # comes with Quart

__all__ = ["main"]


@click.group()
@click.version_option(package_name="dashws-async", prog_name="dashws")
def main() -> None:
    """Dash WebSocket callbacks as tasks, on asyncio and on trio."""


@main.command()
@click.option(
    "--loop",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop to run on.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8050,
    show_default=True,
    help="The port to listen on.",
)
def demo(loop: str, host: str, port: int) -> None:
    """Serve a gallery of live pages, with the code of each."""
    try:
        from dashws_async.demo.app import create_app

        app = create_app(loop)
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f'The gallery needs {missing.name}: pip install "dashws-async[demo]"'
        ) from missing

    app.logger.setLevel("WARNING")  # one line is enough, and it is ours
    click.echo(f"The dashws-async gallery, on {loop}: http://{host}:{port}/  (Ctrl+C ends it)")
    failure = ""
    try:
        app.run(debug=False, host=host, port=port)
    except* OSError as failed:
        failure = str(failed.exceptions[0])
    if failure:
        raise click.ClickException(f"Cannot listen on {host}:{port}: {failure}")


@main.command()
@click.argument("url")
@click.option(
    "--pages", type=click.IntRange(1), default=100, show_default=True, help="How many pages come."
)
@click.option(
    "--ramp",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds in which they come.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that they stay, from then on.",
)
@click.option(
    "--heartbeat",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds between the heartbeats of a page, whose answers are timed.",
)
@click.option("--deflate", is_flag=True, help="Offer compression, as browsers do.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A header of each handshake, say a cookie; may be given again.",
)
@click.option(
    "--max-p99",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Fail if the 99th percentile is above: of the updates' delays where they hold "
    "stamps, otherwise of the heartbeats' answers.",
)
@click.option(
    "--max-lost",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    metavar="PERCENT",
    help="Fail if more of the pages are refused, lost, or get no update.",
)
@click.option("--allow-remote", is_flag=True, help="Load a host that is not this one.")
def load(
    url: str,
    pages: int,
    ramp: float,
    duration: float,
    heartbeat: float,
    deflate: bool,
    headers: tuple[str, ...],
    max_p99: float | None,
    max_lost: float,
    allow_remote: bool,
) -> None:
    """Open many pages of the app at URL, and say how it bears them.

    Each page has a WebSocket of its own and requests the app's persistent callbacks, as
    a browser's does. The exit status is 0 if all limits were kept, 1 if not, and 2 if there
    was nothing to load.
    """
    try:
        from rich.console import Console

        from dashws_async.load import Address, App, Client, Load, NotAnApp, allow_sockets
        from dashws_async.load.command import Limits, run
    except ModuleNotFoundError as missing:
        raise click.ClickException(
            f'dashws load needs {missing.name}: pip install "dashws-async[load]"'
        ) from missing

    try:
        address = Address.of(url, App.websocket_path(url))
        if not (address.is_loopback or allow_remote):
            raise click.UsageError(
                f"{address.host} is not this machine; load on others can do harm: "
                "--allow-remote, if they are yours"
            )
        allow_sockets(pages)
        client = Client(address, deflate=deflate, headers=tuple(map(_header, headers)))
        app = App.at(url)
        rate = pages / ramp if ramp else math.inf
        made = Load(app, pages, rate=rate, heartbeat=heartbeat, client=client)
        kept = run(made, ramp, duration, Limits(max_p99, max_lost), Console())
    except (OSError, ValueError, NotAnApp) as error:
        raise click.UsageError(str(error)) from error
    if not kept:
        sys.exit(1)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise click.BadParameter(f"{line!r} is no header: 'NAME: VALUE'", param_hint="--header")
    return name.strip(), value.strip()


if __name__ == "__main__":
    main(prog_name="dashws")
