"""``python -m example_app``: the help desk, and a sandbox beside it."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from werkzeug.serving import make_server

from flask_postal.sandbox import Sandbox
from flask_postal.sandbox.server import hook_urls

from . import create_app

__all__ = ["main"]


def main() -> None:
    """Serve the help desk on 127.0.0.1 until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m example_app", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    parser.add_argument(
        "--sandbox-port", type=int, default=5025, help="0 takes a free one"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("instance"), help="where all is kept"
    )
    arguments = parser.parse_args()

    sandbox = None
    given = [
        name for name in ("POSTAL_API_URL", "POSTAL_API_KEY") if os.environ.get(name)
    ]
    if len(given) == 1:
        parser.error(f"{given[0]} is set alone; set POSTAL_API_URL and POSTAL_API_KEY")
    folder = arguments.data.resolve()
    config: dict[str, object] = {"DESK_OPEN": True}
    if not given:
        sandbox = Sandbox(port=arguments.sandbox_port, folder=folder).start()
        config |= sandbox.settings()
    app = create_app(config, instance_path=str(folder))
    app.debug = True  # development: Postal may be a sandbox
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", arguments.port, app, threaded=True)
    url = f"http://127.0.0.1:{server.server_port}"
    if sandbox:
        sandbox.tracking_url, sandbox.inbound_url = hook_urls(app, "postal", url)
        print(f"Postal     {sandbox.url}  (the sandbox; nothing leaves this machine)")
    else:
        print(f"Postal     {app.config['POSTAL_API_URL']}")
    print(f"Desk       {url}/desk/")
    print(f"Open       {url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        if sandbox:
            sandbox.stop()


if __name__ == "__main__":
    main()
