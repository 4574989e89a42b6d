"""``python -m example_app``: the app, and a sandbox beside it."""

from __future__ import annotations

import argparse
import os

from werkzeug.serving import make_server

from flask_postal.sandbox import Sandbox

from . import create_app


def main() -> None:
    """Serve the example on 127.0.0.1 until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m example_app", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    arguments = parser.parse_args()

    sandbox = None
    given = [
        name for name in ("POSTAL_API_URL", "POSTAL_API_KEY") if os.environ.get(name)
    ]
    if len(given) == 1:
        parser.error(f"{given[0]} is set alone; set POSTAL_API_URL and POSTAL_API_KEY")
    if not given:
        sandbox = Sandbox().start()
    app = create_app(sandbox.settings() if sandbox else None)
    server = make_server("127.0.0.1", arguments.port, app, threaded=True)
    url = f"http://127.0.0.1:{server.server_port}"
    if sandbox:
        sandbox.tracking_url = f"{url}/postal/tracking/"
        print(f"Postal:  {sandbox.url} (the sandbox; nothing leaves this machine)")
    else:
        print(f"Postal:  {app.config['POSTAL_API_URL']}")
    print(f"Open     {url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        if sandbox:
            sandbox.stop()


if __name__ == "__main__":
    main()
