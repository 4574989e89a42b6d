"""Checks for the URLs of the webhooks.

They check that the app has the URLs, that nothing else responds in place of the views,
and that Postal can reach them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

from ..interface import PostalInterface
from ..settings import is_loopback
from .finding import Finding

__all__ = ["check_urls"]

Paths = Mapping[str, str]


def check_urls(
    postal: PostalInterface, app: Flask, url: str | None
) -> Iterator[Finding]:
    """Post unsigned requests to the app's own webhooks, and check the responses.

    An unsigned request never reaches a receiver, and the text and status with which it
    is refused show whether Flask-Postal's views have responded.

    :param url: The URL at which Postal reaches the app. If not given, the requests are
        made inside of this process only.
    """
    paths = {
        rule.endpoint.rpartition(".")[2]: rule.rule
        for rule in app.url_map.iter_rules()
        if rule.endpoint in (f"{postal.key}.tracking", f"{postal.key}.inbound")
        and rule.rule.endswith("/")
    }
    if not paths:
        yield Finding(
            "error",
            "the webhooks are not registered",
            "app.register_blueprint(postal.blueprint)",
        )
        return
    expected = {403, 401, 503} if postal.webhooks.secrets else {403}
    yield from _own_views(postal, app, paths, expected, _host(url) if url else "")
    if postal.settings.uses_sandbox and postal.settings.api_is_loopback:
        yield from _sandboxs_urls(postal, paths)
    if url:
        base, hook, finding = _base_of(url, paths)
        yield from [finding] if finding is not None else []
        wanted = {name: path for name, path in paths.items() if hook in (None, name)}
        secrets = postal.settings.webhook_secrets
        yield from _from_outside(base, wanted, expected, secrets)


def _own_views(
    postal: PostalInterface,
    app: Flask,
    paths: Paths,
    expected: set[int],
    host: str,
) -> Iterator[Finding]:
    """Post to the views in this process.

    :param expected: The statuses with which the views refuse an unsigned request.
    :param host: The host name by which Postal calls the app; ``""`` if not known.
    """
    trusted = app.config.get("TRUSTED_HOSTS")
    if trusted and not host:
        yield Finding(
            "warning",
            f"TRUSTED_HOSTS allows {', '.join(trusted)} only",
            "Postal must call the app by one of these names; test yours with --url",
        )
        host = str(trusted[0]).lstrip(".")
    for name, path in sorted(paths.items()):
        response = app.test_client().post(
            path,
            data=b"{}",
            content_type="application/json",
            headers={"Host": host or app.config.get("SERVER_NAME") or "localhost"},
        )
        ours = response.status_code in expected and response.mimetype == "text/plain"
        replaced = "not answered by" in response.text
        if ours and not replaced:
            yield Finding("ok", f"{name}: {path} is routed to Flask-Postal")
            continue
        yield Finding(
            "error",
            f"{name}: something else responds to {path} before Flask-Postal"
            f" ({_suspects(app, trusted_hosts=bool(trusted and replaced))})",
            f"exempt request.endpoint {postal.key}.{name} from it, and allow the host"
            " name by which Postal calls",
        )


def _suspects(app: Flask, *, trusted_hosts: bool) -> str:
    """List what may have responded in place of the views."""
    before = [
        f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        for function in app.before_request_funcs.get(None, [])
    ]
    cause = f"before_request functions: {', '.join(before)}" if before else "the app"
    return f"TRUSTED_HOSTS, {cause}" if trusted_hosts else cause


def _host(url: str) -> str:
    """Return host and port of a URL, without the password that it may contain."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _sandboxs_urls(postal: PostalInterface, paths: Paths) -> Iterator[Finding]:
    """Compare the URLs that the sandbox posts to with those of the app."""
    import requests

    from ..sandbox_client import call_sandbox

    try:
        urls = call_sandbox(postal.settings, "urls", {}, timeout=5).json()
    except (requests.RequestException, ValueError):
        return  # the check of the API has already reported that it does not run
    for name, path in sorted(paths.items()):
        posted = urls.get(name) if isinstance(urls, dict) else None
        if posted and urlsplit(posted).path.rstrip("/") != path.rstrip("/"):
            yield Finding(
                "error",
                f"{name}: the sandbox posts to {urlsplit(posted).path}, but this app"
                f" has {path}",
                "restart `flask postal sandbox` with this app's FLASK_APP, because it"
                " reads the URLs from the app",
            )


def _base_of(url: str, paths: Paths) -> tuple[str, str | None, Finding | None]:
    """Split a URL, which may be that of the app or of one of its webhooks.

    :returns: The URL of the app, the name of the webhook if the URL is that of one, and
        a finding if the path is not one of the app's.
    """
    # Findings show the URL, so remove the password and the query, which are secret.
    parts = urlsplit(url)
    parts = parts._replace(netloc=_host(url), query="", fragment="")
    shown, at = parts.geturl(), parts.path.rstrip("/")
    for name, path in paths.items():
        if at.endswith(path.rstrip("/")):
            base = parts._replace(path=at.removesuffix(path.rstrip("/")))
            return base.geturl(), name, None
    last = at.rpartition("/")[2]
    if last in paths:
        base = parts._replace(path="")
        finding = Finding(
            "error",
            f"{shown} is not a URL of this app: its webhooks are at"
            f" {' and '.join(sorted(paths.values()))}",
            "change the URL in Postal, or register the blueprint with another"
            " url_prefix",
        )
        return base.geturl(), last, finding
    return shown, None, None


def _from_outside(
    url: str, paths: Paths, expected: set[int], secrets: tuple[str, ...]
) -> Iterator[Finding]:
    import requests

    headers = {"Content-Type": "application/json"}
    if secrets and urlsplit(url).scheme == "http" and not is_loopback(url):
        yield Finding(
            "warning",
            f"{url} is plain http: the password of the webhooks would be sent"
            " unencrypted, so this check does not send it",
            "use https for the URLs in Postal, and for --url",
        )
    elif secrets:
        # The request has no signature. The app complains about that if the password is
        # right, and about the password otherwise.
        pair = base64.b64encode(secrets[0].encode()).decode()
        headers["Authorization"] = f"Basic {pair}"

    for name, path in sorted(paths.items()):
        address = url.rstrip("/") + path
        try:
            response = requests.post(
                address,
                data=b"{}",
                headers=headers,
                # This does nothing, but without it requests would read ~/.netrc.
                auth=lambda request: request,
                timeout=5,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            yield Finding(
                "error",
                f"{address} can't be reached: {type(error).__name__}",
                "check that the app runs there, and check DNS, TLS and the proxy;"
                " Postal calls from its own network",
            )
        else:
            yield _judged(name, address, response, expected)


def _judged(name: str, address: str, response: Any, expected: set[int]) -> Finding:
    if response.text.startswith("wrong password ["):
        return Finding(
            "error",
            f"{name}: {address} expects another password",
            "check that it is this app, with the same WEBHOOK_SECRET",
        )
    if response.status_code in expected and "[" in response.text[:200]:
        return Finding("ok", f"{name}: {address} refuses unsigned requests")
    return Finding(
        "error",
        f"{name}: {address} answers HTTP {response.status_code}, but this is not a"
        " response of Flask-Postal",
        "check what responds before the app (a proxy, a login, a redirect): Postal"
        " bounces inbound mail for any status but 2xx, 429 and 5xx",
    )
