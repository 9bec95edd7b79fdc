"""Serve the benchmark's app as one contender does; the contender's own interpreter runs this.

The server is configured the same for all.
"""

import argparse
import asyncio
import resource

BACKLOG = 2048
"""Connections that the system holds until they are accepted: a storm of clients, not a queue
of 100, is what is to be measured."""


def make_app(kind, mode, loop, interval):
    if kind == "floor":
        import floor

        floor.Page.interval = interval
        return floor.app

    import dash_app

    if kind != "runtime":
        return dash_app.create(interval, backend=kind).server

    from dashws_async import WebSocketRuntime

    # The others have no such limit: what one client of the echo scenario reaches would be this.
    plugins = [WebSocketRuntime(mode=mode, max_messages_per_second=1e6)]
    if loop != "trio":
        return dash_app.create(interval, backend="quart", plugins=plugins).server
    import trio
    from quart_trio import QuartTrio

    server = QuartTrio("bench")
    return dash_app.create(interval, sleep=trio.sleep, server=server, plugins=plugins).server


def serve(app, loop, port):
    if loop == "uvicorn":
        import uvicorn

        uvicorn.run(app, port=port, backlog=BACKLOG, log_level="warning")
        return
    import hypercorn.config

    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = BACKLOG
    if loop == "trio":
        import hypercorn.trio
        import trio

        trio.run(hypercorn.trio.serve, app, config)
        return
    import hypercorn.asyncio

    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(hypercorn.asyncio.serve(app, config))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--app", choices=["runtime", "quart", "fastapi", "floor"], required=True)
    parser.add_argument("--mode", choices=["async", "hybrid", "threads"], default="async")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "trio", "uvicorn"], required=True)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between live updates")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = make_app(options.app, options.mode, options.loop, options.interval)
    serve(app, options.loop, options.port)


if __name__ == "__main__":
    main()
