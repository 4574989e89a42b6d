"""Checks the URLs of the webhooks: that the app has them, that nothing answers in
their place, and that Postal can reach them."""

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
    """Post to the app's own webhooks, unsigned, as a stranger would.

    :param url: Where Postal reaches the app; only the app itself is asked if not given.
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

    :param expected: The statuses with which ours refuse an unsigned request.
    :param host: The host by which Postal calls the app; ``""`` if it is not known.
    """
    trusted = app.config.get("TRUSTED_HOSTS")
    if trusted and not host:
        yield Finding(
            "warning",
            f"TRUSTED_HOSTS lets in {', '.join(trusted)} only",
            "Postal must call the app by one of these names; pass --url to try yours",
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
            yield Finding("ok", f"{name}: {path} refuses strangers, and is ours")
            continue
        yield Finding(
            "error",
            f"{name}: something answers {path} in our place"
            f" ({_suspects(app, trusted_hosts=bool(trusted and replaced))})",
            f"let it pass request.endpoint {postal.key}.{name}, and the host by which"
            " Postal calls",
        )


def _suspects(app: Flask, *, trusted_hosts: bool) -> str:
    """Name what may answer in the place of the views."""
    before = [
        f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        for function in app.before_request_funcs.get(None, [])
    ]
    cause = f"before_request functions: {', '.join(before)}" if before else "the app"
    return f"TRUSTED_HOSTS, {cause}" if trusted_hosts else cause


def _host(url: str) -> str:
    """Return host and port of a URL, without the password that it may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _sandboxs_urls(postal: PostalInterface, paths: Paths) -> Iterator[Finding]:
    """Compare where the sandbox posts to with the app's own webhooks."""
    import requests

    from ..sandbox_client import call_sandbox

    try:
        urls = call_sandbox(postal.settings, "urls", {}, timeout=5).json()
    except (requests.RequestException, ValueError):
        return  # that it does not run has been said
    for name, path in sorted(paths.items()):
        posted = urls.get(name) if isinstance(urls, dict) else None
        if posted and urlsplit(posted).path.rstrip("/") != path.rstrip("/"):
            yield Finding(
                "error",
                f"{name}: the sandbox posts to {urlsplit(posted).path}, and this app"
                f" has {path}",
                "restart `flask postal sandbox` with this app's FLASK_APP, so that it"
                " takes the URLs from it",
            )


def _base_of(url: str, paths: Paths) -> tuple[str, str | None, Finding | None]:
    """Compare a URL with the app's own: the app's, or that of one of its webhooks.

    :returns: Where the app is, which webhook is meant if one is, and what is wrong.
    """
    # What it carries to prove itself stands in the settings too, and must not be shown.
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
            f"{shown} is not this app's: its webhooks are at"
            f" {' and '.join(sorted(paths.values()))}",
            "put that into the URL in Postal, or register the blueprint with another"
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
            f"{url} is plain http: the password of the webhooks would travel in the"
            " clear, and is not sent with this check",
            "use https for the URLs in Postal, and for --url",
        )
    elif secrets:
        # Without a signature: the app says so, unless it wants another password.
        pair = base64.b64encode(secrets[0].encode()).decode()
        headers["Authorization"] = f"Basic {pair}"

    for name, path in sorted(paths.items()):
        address = url.rstrip("/") + path
        try:
            response = requests.post(
                address,
                data=b"{}",
                headers=headers,
                # An auth of its own keeps requests from reading netrc.
                auth=lambda request: request,
                timeout=5,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            yield Finding(
                "error",
                f"{address} can't be reached: {type(error).__name__}",
                "does the app run there? Check DNS, TLS and the proxy too; Postal calls"
                " from its own network",
            )
        else:
            yield _judged(name, address, response, expected)


def _judged(name: str, address: str, response: Any, expected: set[int]) -> Finding:
    if response.text.startswith("wrong password ["):
        return Finding(
            "error",
            f"{name}: {address} wants another password",
            "is it this app, with the same WEBHOOK_SECRET?",
        )
    if response.status_code in expected and "[" in response.text[:200]:
        return Finding("ok", f"{name}: {address} refuses what is not signed")
    return Finding(
        "error",
        f"{name}: {address} answers HTTP {response.status_code}, and not from us",
        "see what stands before the app (a proxy, a login, a redirect); to Postal,"
        " anything but 2xx and 5xx sends inbound mail back",
    )
