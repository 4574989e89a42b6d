"""HTTP to one Postal: kept-alive connections, time-outs, and no second delivery.

Importing this module imports requests; :mod:`.client` does so at the first call.
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

#: Seconds after which an idle connection is not used again; Postal's web server
#: closes its side after 20.
MAX_IDLE = 10.0
#: Idle connections kept; send_many seldom wants more.
MAX_KEPT = 64
#: Bytes that are read at once.
READ_SIZE = 1024 * 1024
#: Bytes of an answer that are read at most. The largest is a stored mail of 14 MB
#: with its raw message and attachments in base64.
MAX_ANSWER = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, read to its end."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why no whole answer came, in words.

    requests' errors carry the request with its API key: none may hang on to ours.

    :param begun: Whether anything of the body has left.
    :param again: Whether another attempt may do better.
    """

    cause: str
    begun: bool
    again: bool

    @classmethod
    def of(cls, error: BaseException, *, begun: bool) -> Failure:
        """Put an error into words."""
        root = _root(error)
        # A certificate stays wrong, and trying again only delays the error.
        again = not isinstance(root, ssl.SSLCertVerificationError)
        return cls(f"{type(root).__name__}: {root}", begun, again)


class ConnectionPool:
    """One pool of connections to the Postal at one URL.

    :param base_url: The URL of Postal, without ``/api/v1``.
    :param timeout: Seconds to connect and seconds to wait for each piece of an answer.
    :param connect_retries: How often to try again when nothing has left.
    :param ca_bundle: A file or folder of certificates to trust instead of the
        environment's or certifi's.
    :param key_prefix: What the names of the settings begin with, for errors.
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
        # Proxies, and CA bundle, of the environment: read once, for looking them up
        # costs more than sending.
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
        """POST a body, once; again only while surely nothing of it has left.

        :raises MessageError: if the body can't be produced.
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
        # A plain dict: urllib3 asks for nothing more.
        request.headers = {**headers, "Content-Length": str(length)}  # type: ignore[assignment]
        request.body = departure
        # A mock of requests ("responses"), which looks into headers and body.
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
            if isinstance(response, requests.Response):  # a mock's
                return Response(response.status_code, response.content)
            return _read(response)
        except (requests.RequestException, HTTPError, OSError) as error:
            begun = departure.begun or (
                mocked and not isinstance(error, requests.ConnectionError)
            )
            return Failure.of(error, begun=begun)


class _Adapter(HTTPAdapter):
    """requests' adapter, less what it does again for every request.

    It keeps one TLS context, in which the CA bundle is loaded once, looks up the pool
    of a URL once, and hands out urllib3's response as it is.
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
        """Do nothing: the TLS context verifies, always."""

    def request_url(self, request: Any, proxies: Any) -> str:
        target = self._targets.get(request.url)
        if target is None:
            target = super().request_url(request, proxies)
            self._targets[request.url] = target
        return target

    def build_response(self, req: Any, resp: Any) -> Any:
        return (
            resp if isinstance(resp, _Answered) else super().build_response(req, resp)
        )


class _Answered(HTTPResponse):
    """An answer that a connection of ours has read."""


class _Kept:
    """Keep-alive connection that expires before Postal closes its side.

    It counts as closed when it has been idle for too long: a server that closes it just
    as we write would leave us in doubt about a mail. And it sends the head of a request
    together with the first piece of its body, in one packet.
    """

    _last_used = 0.0
    _ends_head = False
    _head = b""

    def putheader(self, header: str, *values: Any) -> None:
        # Past urllib3's, which looks for headers to skip; we have none.
        HTTPConnection.putheader(self, header, *values)  # type: ignore[arg-type]

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        self._ends_head = True
        super().endheaders(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self._ends_head:
            self._ends_head = False
            if self.sock is None:  # type: ignore[attr-defined]
                # Now, before the body is begun: an error is no reason for doubt yet.
                self.connect()  # type: ignore[attr-defined]
            self._head = data
            return
        head, self._head = self._head, b""
        super().send(head + data if head else data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        # Past urllib3's, which checks and copies every header of an answer; all that
        # is wanted of them is the body's length.
        self.sock.settimeout(self.timeout)  # type: ignore[attr-defined]
        answer = HTTPConnection.getresponse(self)  # type: ignore[arg-type]
        self._last_used = _clock()
        return _Answered(
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
    """Read an answer to its end, or to where it gets too large."""
    announced = response.length_remaining
    try:
        if announced is not None and announced <= MAX_ANSWER:
            body = response.read()
        else:
            body = b""
            while piece := response.read(READ_SIZE):
                body += piece
                if len(body) > MAX_ANSWER:
                    raise OSError(f"the answer is larger than {MAX_ANSWER} bytes")
    finally:
        if announced is None or response.length_remaining:
            response.close()  # else it has gone back to the pool
    return Response(response.status, body)


def _tls_context(trusted: str | None, key: str) -> ssl.SSLContext:
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
    """Dig out the error that a chain of wrappers began with."""
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
