"""The `dashws` command; also `python -m dashws_async`."""

from __future__ import annotations

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


if __name__ == "__main__":
    main(prog_name="dashws")
