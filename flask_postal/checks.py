"""What ``flask postal check`` looks at. Each finding comes with its cure."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask

from .errors import APIError, PostalError
from .settings import Settings, is_loopback, read_suppressed
from .signals import inbound_received, server_event_received, tracking_received

if TYPE_CHECKING:
    from .extension import Postal

__all__ = ["Finding", "check"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param level: ``"ok"``, ``"warning"`` or ``"error"``.
    :param text: What was found.
    :param cure: What to do about it; ``""`` where all is well.
    """

    level: str
    text: str
    cure: str = ""


def check(postal: Postal, app: Flask, url: str | None = None) -> Iterator[Finding]:
    """Look at everything, in an app context.

    :param url: Where Postal reaches this app: ``https://app.example.com``.
    """
    yield from _settings(postal, app)
    if postal.settings.uses_sandbox and not (app.debug or app.testing):
        yield Finding(
            "warning",
            "this is a sandbox: no mail reaches anybody",
            "right for development; before you deploy set"
            f" {postal.settings.prefix}API_URL and _API_KEY to those of a Postal",
        )
    yield from _api(postal)
    yield from _keys(postal)
    yield from _cache(postal)
    yield from _receivers(app)
    yield from _views(postal, app, url)
    yield from _limiter(postal, app)


def _settings(postal: Postal, app: Flask) -> Iterator[Finding]:
    settings, prefix = postal.settings, postal.settings.prefix
    if settings.api_url is None:
        yield Finding(
            "error",
            "no mail can be sent: no URL",
            f"set {prefix}API_URL to Postal's or, in development, to what"
            " `flask postal sandbox` prints",
        )
    elif urlsplit(settings.api_url).scheme == "http" and not settings.api_is_loopback:
        yield Finding(
            "warning",
            f"{settings.api_url}: the API key travels in the clear",
            f"set {prefix}API_URL to an https URL",
        )
    if settings.api_key is None:
        yield Finding(
            "error",
            "no mail can be sent: no API key",
            f"set {prefix}API_KEY to a credential of type API of the mail server",
        )
    if settings.default_sender is None and not settings.send_defaults.get("sender"):
        yield Finding(
            "warning", "messages need sender=", f"set {prefix}DEFAULT_SENDER to save it"
        )
    if not app.testing and read_suppressed(app.config, prefix, testing=False):
        yield Finding(
            "warning",
            "no mail is sent: messages are checked and suppressed",
            f"unset {prefix}SUPPRESS_SEND and MAIL_SUPPRESS_SEND in production",
        )
    if settings.redirect_to is not None:
        yield Finding(
            "warning",
            f"every mail goes to {settings.redirect_to.addr_spec} instead",
            f"unset {prefix}REDIRECT_TO in production",
        )


def _api(postal: Postal) -> Iterator[Finding]:
    settings = postal.settings
    if settings.api_url is None or settings.api_key is None:
        return
    try:
        # No mail has this number: a Postal that says so has taken the key.
        postal.get_message(0, expand=())
    except APIError as error:
        if error.code != "MessageNotFound":
            yield Finding(
                "error", f"the API refuses: {error}", "see the sentence above"
            )
            return
    except PostalError as error:
        yield Finding(
            "error",
            f"the API can't be reached: {error}",
            f"check {settings.prefix}API_URL, and the network from here to there",
        )
        return
    yield Finding("ok", f"{settings.api_url} takes the API key")


def _keys(postal: Postal) -> Iterator[Finding]:
    settings, inbox = postal.settings, postal.webhooks
    prefix = settings.prefix
    keys = inbox.find_keys(None)
    if not keys:
        reason = "none could be fetched from Postal"
        if not inbox.discovers_keys:
            reason = "none is set, and none is fetched over plain http or without a URL"
        yield Finding(
            "error",
            f"no webhook can be checked: no key; {reason}",
            f"set {prefix}WEBHOOK_KEY to what `postal default-dkim-record` prints",
        )
        return
    for key in keys:
        origin = "discovered" if inbox.discovers_keys else f"from {prefix}WEBHOOK_KEY"
        yield Finding("ok", f"webhook key {key.kid}, {key.bits} bits, {origin}")
    if not inbox.discovers_keys and settings.api_url is not None:
        yield _compared(settings, {key.kid for key in keys})
    if not inbox.secrets:
        yield Finding(
            "warning",
            "any mail server on the same Postal could call the webhooks: they all sign"
            " with one key",
            f"put user:password@ into the URLs in Postal, set {prefix}WEBHOOK_SECRET",
        )


def _compared(settings: Settings, configured: set[str]) -> Finding:
    """Compare the keys of the settings with those that Postal serves."""
    from .errors import ConfigurationError
    from .webhooks.discovery import fetch_jwks, fit_keys

    setting = f"{settings.prefix}WEBHOOK_KEY"
    try:
        content = fetch_jwks(str(settings.api_url), settings.ca_bundle)
        served = {key.kid for key in fit_keys(content)}
    except (OSError, ConfigurationError) as error:
        # Postal before 3.2 serves none, and answers 404.
        if "HTTP 404" in str(error):
            return Finding("ok", f"{setting}: not compared, for Postal serves no keys")
        return Finding(
            "warning",
            f"{setting}: not compared, for Postal's keys can't be fetched: {error}",
            f"check {settings.prefix}API_URL, and the network from here to there",
        )
    if configured & served:
        return Finding("ok", f"{setting}: Postal signs with this key")
    return Finding(
        "error",
        f"{setting} is not what Postal signs with, and every webhook would be answered"
        f" with 503; Postal serves {', '.join(sorted(served))}",
        "set it to what `postal default-dkim-record` prints; a domain's DKIM record"
        " holds another key",
    )


def _cache(postal: Postal) -> Iterator[Finding]:
    from .webhooks.dedupe import CacheStore, MemoryCache

    store, setting = postal.webhooks.store, f"{postal.settings.prefix}DEDUPE_CACHE"
    if not isinstance(store, CacheStore) or isinstance(store.cache, MemoryCache):
        return
    cache = store.cache
    key, problem, began = "flask-postal:check", "it forgets at once", time.monotonic()
    try:
        cache.delete(key)
        cache.add(key, 1, 60)
        if cache.get(key) == 1:
            problem = ""
        cache.delete(key)
    except Exception as error:  # noqa: BLE001 - whatever client, whatever it raises
        problem = type(error).__name__
    took = time.monotonic() - began
    if problem:
        yield Finding(
            "error",
            f"{setting}: the cache does not work ({problem}, after {took:.1f} s)",
            "look at its address; until then, what Postal repeats is handled again",
        )
    elif took > 1:
        yield Finding(
            "warning",
            f"{setting}: the cache took {took:.1f} s",
            "Postal gives 5 s in all",
        )
    else:
        yield Finding("ok", f"{setting}: the cache works")


def _receivers(app: Flask) -> Iterator[Finding]:
    cure = "connect a receiver; inside create_app() with weak=False"
    for signal, level, what in (
        (tracking_received, "warning", "what became of mail goes unheard"),
        (inbound_received, "warning", "inbound mail is answered with 503, and waits"),
        (server_event_received, "ok", "DNS and send-limit events go unheard"),
    ):
        count = len(list(signal.receivers_for(app)))
        if count:
            yield Finding("ok", f"{signal.name}: {count} receiver(s)")
        else:
            yield Finding(level, f"{signal.name}: no receiver; {what}", cure)


def _host(url: str) -> str:
    """Return host and port of a URL, without the password that it may hold."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _views(postal: Postal, app: Flask, url: str | None) -> Iterator[Finding]:
    """Post to our own views, unsigned, as a stranger would."""
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
    host = _host(url) if url else ""
    trusted = app.config.get("TRUSTED_HOSTS")
    if trusted and not host:
        yield Finding(
            "warning",
            f"TRUSTED_HOSTS lets in {', '.join(trusted)} only",
            "Postal must call the app by one of these names; pass --url to try yours",
        )
        host = str(trusted[0]).lstrip(".")
    expected = {403, 401, 503} if postal.webhooks.secrets else {403}
    for name, path in sorted(paths.items()):
        answer = app.test_client().post(
            path,
            data=b"{}",
            content_type="application/json",
            headers={"Host": host or app.config.get("SERVER_NAME") or "localhost"},
        )
        ours = answer.status_code in expected and answer.mimetype == "text/plain"
        if ours and "not answered by" not in answer.text:
            yield Finding("ok", f"{name}: {path} refuses strangers, and is ours")
            continue
        before = [
            f"{f.__module__}.{getattr(f, '__qualname__', f)}"
            for f in app.before_request_funcs.get(None, [])
        ]
        cause = (
            f"before_request functions: {', '.join(before)}" if before else "the app"
        )
        if trusted and "not answered by" in answer.text:
            cause = "TRUSTED_HOSTS, " + cause
        yield Finding(
            "error",
            f"{name}: something answers {path} in our place ({cause})",
            f"let it pass request.endpoint {postal.key}.{name}, and the host by which"
            " Postal calls",
        )
    if postal.settings.uses_sandbox and postal.settings.api_is_loopback:
        yield from _sandboxs_urls(postal, paths)
    if url:
        base, hook, finding = _base_of(url, paths)
        yield from [finding] if finding is not None else []
        wanted = {name: path for name, path in paths.items() if hook in (None, name)}
        secrets = postal.settings.webhook_secrets
        yield from _from_outside(base, wanted, expected, secrets)


def _sandboxs_urls(postal: Postal, paths: dict[str, str]) -> Iterator[Finding]:
    """Compare where the sandbox posts to with the app's own webhooks."""
    import requests

    from .sandbox_client import call_sandbox

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


def _base_of(url: str, paths: dict[str, str]) -> tuple[str, str | None, Finding | None]:
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
    url: str, paths: dict[str, str], expected: set[int], secrets: tuple[str, ...]
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
            answer = requests.post(
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
            continue
        if answer.text.startswith("wrong password ["):
            yield Finding(
                "error",
                f"{name}: {address} wants another password",
                "is it this app, with the same WEBHOOK_SECRET?",
            )
        elif answer.status_code in expected and "[" in answer.text[:200]:
            yield Finding("ok", f"{name}: {address} refuses what is not signed")
        else:
            yield Finding(
                "error",
                f"{name}: {address} answers HTTP {answer.status_code}, and not from us",
                "see what stands before the app (a proxy, a login, a redirect); to"
                " Postal, anything but 2xx and 5xx sends inbound mail back",
            )


def _limiter(postal: Postal, app: Flask) -> Iterator[Finding]:
    limiters: Any = app.extensions.get("limiter")
    if not limiters:
        return
    for limiter in limiters if isinstance(limiters, (set, list)) else [limiters]:
        manager = getattr(limiter, "limit_manager", None)
        limits = [
            *getattr(manager, "default_limits", ()),
            *getattr(manager, "application_limits", ()),
        ]
        exempt = manager is not None and all(
            manager.exemption_scope(app, f"{postal.key}.{name}", postal.key).value
            for name in ("tracking", "inbound")
        )
        if limits and not exempt:
            yield Finding(
                "error",
                "a rate limiter may answer Postal with 429 (made 503 by our net; events"
                " come late, and are lost after six times)",
                "limiter.exempt(postal.blueprint)",
            )
        else:
            yield Finding("ok", "the rate limiter lets Postal pass")
