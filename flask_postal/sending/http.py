"""HTTP client for one Postal server: keep-alive connections, time-outs, safe retries.

A request is retried only if certainly no part of its body has left. Sending is not
idempotent: Postal does not recognize duplicates, so that a retry after any doubt could
deliver a message twice.

The client uses requests' :class:`~requests.adapters.HTTPAdapter`, so that proxies, TLS
and the usual mocks of requests work as people expect, but no
:class:`~requests.Session`: ``Session.request`` takes 480 us per call, against 190 us
for urllib3, mostly to look up proxies in the environment and to handle redirects and
cookies. Redirects must not be followed anyway, because requests would send the API key
to the other host.

Importing this module imports requests; :mod:`.transport` does so at the first call.
"""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.timeout import Timeout

from ..errors import ConfigurationError
from .payload import Body, BodyStream

__all__ = ["ConnectionPool", "Failure", "Response"]

_clock = time.monotonic
_sleep = time.sleep

#: Seconds after which an idle connection is not used again. Postal's web server closes
#: an idle connection after 20 s. If it does so while a request is being written, the
#: client can't find out whether the message was sent, and must not retry. Expiring
#: connections after half of the time avoids this.
MAX_IDLE = 10.0
#: Most idle connections that are kept open. With more threads than this, ``send_many``
#: opens a new connection for some of its requests.
MAX_KEPT = 64
#: Bytes to read at a time from a response without a Content-Length.
READ_SIZE = 1024 * 1024
#: Largest response that is read, in bytes. Postal's largest is a stored mail of 14 MB,
#: which contains the raw mail and each attachment in base64.
MAX_RESPONSE = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response.

    :param status: The HTTP status.
    :param body: The whole body.
    """

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no complete response was received.

    It keeps the text of the error but not the error itself: exceptions of requests have
    the request as an attribute, and with it the API key.

    :param cause: The type and the text of the error.
    :param begun: Whether a part of the body may have left.
    :param again: Whether another attempt may succeed.
    """

    cause: str
    begun: bool
    again: bool

    @classmethod
    def of(cls, error: BaseException, *, begun: bool) -> Failure:
        """Describe an error by the exception that caused it.

        :param begun: Whether a part of the body may have left.
        """
        root = _root(error)
        # An invalid certificate stays invalid; a retry would only delay the error.
        again = not isinstance(root, ssl.SSLCertVerificationError)
        return cls(f"{type(root).__name__}: {root}", begun, again)


class ConnectionPool:
    """Pool of connections to one Postal server. Can be shared between threads.

    :param base_url: The URL of the server, without ``/api/v1``.
    :param timeout: Seconds to connect, and seconds to wait for each read or write.
    :param connect_retries: Number of retries after an error before the body is begun.
    :param ca_bundle: A file or folder of certificates to trust instead of those that
        the environment (``REQUESTS_CA_BUNDLE``) or certifi provides.
    :param key_prefix: The prefix of the settings' names, for error messages.
    :raises ConfigurationError: if the CA bundle can't be read.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: tuple[float, float],
        connect_retries: int,
        ca_bundle: str | None = None,
        key_prefix: str = "POSTAL_",
    ) -> None:
        self._base_url = base_url
        self._timeout = Timeout(connect=timeout[0], read=timeout[1])
        self._connect_retries = connect_retries
        # HTTPAdapter.send doesn't read proxies and the CA bundle from the environment.
        # A Session would look them up for every request, which takes longer than
        # sending it. Here they are looked up once.
        environment = requests.Session().merge_environment_settings(
            base_url, {}, None, None, None
        )
        self._proxies = dict(environment["proxies"])
        verify = environment["verify"]
        trusted = ca_bundle or (verify if isinstance(verify, str) else None)
        context = None
        if base_url.startswith("https:"):
            context = _tls_context(trusted, f"{key_prefix}CA_BUNDLE")
        self._adapter = _Adapter(context)

    def post(
        self, path: str, headers: dict[str, str], body: Body
    ) -> Response | Failure:
        """POST a body, and retry only as long as no part of it has left.

        :param path: The path below the base URL, such as ``/api/v1/send/message``.
        :param headers: All headers except Content-Length.
        :raises MessageError: if an attached file can't be read, or has changed.
        """
        attempt = 0
        while True:
            departure = BodyStream(body)
            outcome = self._attempt(path, headers, body.length, departure)
            if departure.error is not None:
                raise departure.error
            if isinstance(outcome, Response):
                return outcome
            if outcome.begun or not outcome.again or attempt >= self._connect_retries:
                return outcome
            _sleep(0.2 * 2**attempt)
            attempt += 1

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def _attempt(
        self, path: str, headers: dict[str, str], length: int, departure: BodyStream
    ) -> Response | Failure:
        request = requests.PreparedRequest()
        request.method = "POST"
        request.url = self._base_url + path
        # A plain dict is all that urllib3 needs.
        request.headers = {**headers, "Content-Length": str(length)}  # type: ignore[assignment]
        request.body = departure
        # Mocks such as "responses" replace HTTPAdapter.send. They expect what a Session
        # passes: case-insensitive headers and a body of bytes.
        mocked = HTTPAdapter.send.__module__ != "requests.adapters"
        if mocked:
            request.headers = CaseInsensitiveDict(request.headers)
            request.body = departure.whole()
        try:
            response = self._adapter.send(
                request,
                timeout=self._timeout,  # type: ignore[arg-type]  # as its docs allow
                proxies=self._proxies,
            )
            if isinstance(response, requests.Response):  # from a mock
                return Response(response.status_code, response.content)
            return _read(response)
        except (requests.RequestException, HTTPError, OSError) as error:
            # A mock never takes pieces of the body. Assume that it has left, unless the
            # mock simulates a failed connection.
            begun = departure.begun or (
                mocked and not isinstance(error, requests.ConnectionError)
            )
            return Failure.of(error, begun=begun)


class _Adapter(HTTPAdapter):
    """HTTPAdapter without the work that it repeats for every request.

    The gain noted at a method is the additional CPU time that sending a small message
    takes without it, measured over HTTP and HTTPS. Overrides that gained less than 5 %
    have been removed.

    :param tls_context: The context for HTTPS, with the CA bundle loaded.
    """

    def __init__(self, tls_context: ssl.SSLContext | None) -> None:
        self._tls: dict[str, Any] = {}
        if tls_context is not None:
            self._tls["ssl_context"] = tls_context
        self._pools: dict[str, Any] = {}
        self._targets: dict[str, str] = {}
        super().__init__()
        self.init_poolmanager(2, MAX_KEPT, **self._tls)

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        # Looks up the pool of a URL once; requests chooses the proxy and computes
        # urllib3's pool key for every request. Gain: 9 %. It is also the place where
        # the pool gets our connection class.
        pool = self._pools.get(request.url)
        if pool is None:
            proxy = select_proxy(request.url, proxies)
            manager: Any = self.poolmanager
            if proxy:
                if "://" not in proxy:
                    proxy = f"http://{proxy}"
                manager = self.proxy_manager_for(proxy, **self._tls)
            pool = manager.connection_from_url(request.url)
            if not issubclass(pool.ConnectionCls, _Kept):
                pool.ConnectionCls = type(
                    "KeptConnection", (_Kept, pool.ConnectionCls), {}
                )
            self._pools[request.url] = pool
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing, because the TLS context verifies certificates by itself.

        Needed for correctness. requests would set certifi's bundle on the connection,
        and urllib3 would load it into the TLS context: a server with a public
        certificate would be trusted, although :data:`POSTAL_CA_BUNDLE` names only a
        private CA. Loading it would also add about 15 ms to each new connection.
        """

    def request_url(self, request: Any, proxies: Any) -> str:
        # Computes the request target of a URL once: its path; or the whole URL, if a
        # proxy is used for plain HTTP. Gain: 4 % over HTTP, 6 % over HTTPS.
        target = self._targets.get(request.url)
        if target is None:
            target = super().request_url(request, proxies)
            self._targets[request.url] = target
        return target

    def build_response(self, req: Any, resp: Any) -> Any:
        # Returns urllib3's response unchanged if it comes from one of our connections.
        # requests would wrap it, copy its headers and look for cookies. Gain: 11 %.
        # Mocks call this method with responses of their own, and need the wrapper.
        return (
            resp
            if isinstance(resp, _KeptResponse)
            else super().build_response(req, resp)
        )


class _KeptResponse(HTTPResponse):
    """A response to a request on one of our connections, not from a mock."""


class _Kept:
    """Keep-alive connection that expires before Postal closes its side.

    urllib3 asks ``is_connected`` before it uses a connection again, and opens a new one
    if it is false. See :data:`MAX_IDLE`.
    """

    _last_used = 0.0

    def getresponse(self) -> Any:
        # Needed to note when the connection becomes idle, and to mark the response as
        # ours for build_response. It calls http.client instead of urllib3, which checks
        # and copies every header of the response; only the length of the body is
        # needed. Gain: 5 %, and 17 % together with build_response.
        self.sock.settimeout(self.timeout)  # type: ignore[attr-defined]
        answer = HTTPConnection.getresponse(self)  # type: ignore[arg-type]
        self._last_used = _clock()
        return _KeptResponse(
            body=answer,
            headers=None
            if answer.length is None
            else {"Content-Length": str(answer.length)},
            status=answer.status,
            version_string=getattr(self, "_http_vsn_str", "HTTP/?"),
            preload_content=False,
            decode_content=False,
            original_response=answer,
            request_method="POST",
        )

    @property
    def is_connected(self) -> bool:
        if _clock() - self._last_used > MAX_IDLE:
            return False
        return bool(super().is_connected)  # type: ignore[misc]


def _read(response: Any) -> Response:
    """Read a response to its end, unless it is too large.

    Otherwise a server that isn't Postal could fill the memory.
    """
    announced = response.length_remaining
    try:
        if announced is not None and announced <= MAX_RESPONSE:
            body = response.read()
        else:
            body = b""
            while piece := response.read(READ_SIZE):
                body += piece
                if len(body) > MAX_RESPONSE:
                    raise OSError(f"the response is larger than {MAX_RESPONSE} bytes")
    finally:
        if announced is None or response.length_remaining:
            # The connection can't be used again. Otherwise reading the body to its end
            # has already returned it to the pool.
            response.close()
    return Response(response.status, body)


def _tls_context(trusted: str | None, key: str) -> ssl.SSLContext:
    """Create a TLS context with a CA bundle. All connections share it.

    :param trusted: A file or folder of certificates; certifi's if ``None``.
    :param key: The name of the setting, for the error message.
    """
    bundle = trusted or DEFAULT_CA_BUNDLE_PATH
    context = create_urllib3_context()
    problem = None
    try:
        if os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except OSError as error:
        problem = str(error)
    if problem is not None:
        raise ConfigurationError(
            f"the CA bundle {bundle!r} can't be read ({problem}); set {key} to a file"
            " of PEM certificates",
            key=key,
        )
    return context


def _root(error: BaseException) -> BaseException:
    """Return the exception at the bottom of a chain of wrappers.

    requests and urllib3 wrap each other's exceptions in ``reason``, ``args`` or
    ``__cause__``. The innermost one names the problem: "Connection refused".
    """
    seen = {id(error)}
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next(
                (a for a in reversed(error.args) if isinstance(a, BaseException)),
                error.__cause__,
            )
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner
