"""Run the help desk together with a sandbox: ``python -m example_app``.

Both listen on 127.0.0.1 only. If POSTAL_API_URL and POSTAL_API_KEY are set in the
environment, the help desk uses that Postal, and no sandbox is started.

The help desk only accepts requests for the host names 127.0.0.1, localhost and
MAIL_DOMAIN; all others get a 400. To serve it under other names, for example behind a
proxy, list them in the environment variable TRUSTED_HOSTS, separated by commas: they
replace MAIL_DOMAIN. A name with a leading dot includes its subdomains.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from flask import Flask
from werkzeug.serving import make_server

from flask_postal import ConfigurationError
from flask_postal.sandbox import Sandbox
from flask_postal.sandbox.webhook_client import hook_urls
from flask_postal.testing import resolving_with

from . import create_app

__all__ = ["main", "trusted_hosts"]

#: Always trusted: the sandbox uses the first one to call the webhooks.
LOOPBACK = ("127.0.0.1", "localhost")


def main() -> None:
    """Serve the help desk on 127.0.0.1 until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m example_app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=5000, help="0 picks a free port")
    parser.add_argument(
        "--sandbox-port", type=_port, default=5025, help="0 picks a free port"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("instance"), help="folder for all data"
    )
    arguments = parser.parse_args()

    sandbox = None
    given = [
        name for name in ("POSTAL_API_URL", "POSTAL_API_KEY") if os.environ.get(name)
    ]
    if len(given) == 1:
        parser.error(f"{given[0]} is set alone; set POSTAL_API_URL and POSTAL_API_KEY")
    try:
        listener = socket.create_server(("127.0.0.1", arguments.port))
    except OSError as error:
        parser.error(
            f"the help desk can't listen on port {arguments.port}"
            f" ({os.strerror(error.errno or 0)}); choose another with --port"
        )
    folder = arguments.data.resolve()
    config: dict[str, object] = {"DESK_OPEN": True}
    names = ExitStack()  # of the domains that write to us
    if not given:
        sandbox = Sandbox(port=arguments.sandbox_port, folder=folder)
        try:
            sandbox.start()
        except ConfigurationError as error:
            parser.error(f"{error} with --sandbox-port")
        config |= sandbox.settings()
        names.enter_context(resolving_with(sandbox.dns))
    app = create_app(config, instance_path=str(folder))
    app.config["TRUSTED_HOSTS"] = trusted_hosts(app)
    app.debug = True  # otherwise, sending to a sandbox logs a warning
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with listener:
        # Werkzeug gets the open socket: it prints its own error if a port is in use.
        server = make_server(
            *("127.0.0.1", arguments.port, app), threaded=True, fd=listener.fileno()
        )
    url = f"http://127.0.0.1:{server.port}"
    if sandbox:
        sandbox.tracking_url, sandbox.inbound_url = hook_urls(app, "postal", url)
        print(f"Postal     {sandbox.url}  (the sandbox; no mail leaves this machine)")
    else:
        print(f"Postal     {app.config['POSTAL_API_URL']}")
    print(f"Desk       {url}/desk/")
    print(f"Open       {url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        names.close()
        if sandbox:
            sandbox.stop()


def trusted_hosts(app: Flask) -> list[str]:
    """Return the host names that the help desk accepts."""
    names = os.environ.get("TRUSTED_HOSTS") or app.config["MAIL_DOMAIN"]
    return [*LOOPBACK, *(name.strip() for name in names.split(",") if name.strip())]


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 65535")
    return number


if __name__ == "__main__":
    main()
