"""Whether the control plane can be reached from here: name, connection, TLS, proxy, and whether the clocks agree."""

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pomerium_agent.cli.checkup.finding import Finding, failed, ok, skipped
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Settings
from pomerium_agent.zero.egress import proxy_url, tls_context, trusted_roots

API = "CLUSTER_API_ENDPOINT"
SECONDS = 5.0
SKEW = 30.0  # seconds by which two clocks may differ; logins and tokens bear more, and not much
# What OpenSSL calls it, and what to do about it.
EXPIRED, NOT_YET, NAMES = (10,), (9,), (62, 64)


class Place(NamedTuple):
    """One server to reach."""

    setting: str
    tls: bool
    host: str
    port: int


def check(settings: Settings) -> Iterator[Finding]:
    """Both servers of the control plane; the telemetry endpoint is not needed to serve."""
    parts = urlsplit(settings.cluster_api)
    tls = parts.scheme == "https"
    api = Place(API, tls, parts.hostname or "", parts.port or (443 if tls else 80))
    connect = settings.connect
    yield from _look(api, clock=True)
    yield from _look(Place("CONNECT_SERVER_ENDPOINT", connect.tls, connect.host, connect.port), clock=False)


def _look(place: Place, *, clock: bool) -> Iterator[Finding]:
    where = f"{place.host}:{place.port}"
    proxy = proxy_url("https" if place.tls else "http", place.host, place.port)
    if proxy is None:
        try:
            socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            remedy = f"look at /etc/resolv.conf and at the host name in {place.setting}"
            yield failed(place.setting, f"the name {place.host} cannot be resolved", remedy)
            return
    try:
        connection = _connection(place, proxy)
        try:
            connection.connect()
            yield ok(place.setting, f"{where} is reached{' over TLS' if place.tls else ''}{' by proxy' * bool(proxy)}")
            if clock:
                yield _clock(connection, where)
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        yield _certificate(place, error)
    except ssl.SSLError as error:
        remedy = f"see that {place.setting} names a server that speaks TLS, and that nothing between cuts it off"
        yield failed(place.setting, f"{where} does not speak TLS: {error.reason or 'no answer'}", remedy)
    except (OSError, http.client.HTTPException) as error:
        yield _unreachable(place, proxy, error)
    except SettingsError as error:
        yield failed(place.setting, str(error), "name a file with root certificates with SSL_CERT_FILE")


def _connection(place: Place, proxy: str | None) -> http.client.HTTPConnection:
    """Not connected yet; through the proxy if there is one, as gRPC and aiohttp go."""
    host, port, headers = place.host, place.port, {}
    if proxy is not None:
        through = urlsplit(proxy)
        host, port = through.hostname or "", through.port or 80
        if through.username:
            import base64

            pair = f"{unquote(through.username)}:{unquote(through.password or '')}"
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    if place.tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=SECONDS, context=tls_context(trusted_roots())
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if proxy is not None:
        connection.set_tunnel(place.host, place.port, headers)
    return connection


def _clock(connection: http.client.HTTPConnection, where: str) -> Finding:
    """Compare ours with the server's, which stands in every answer."""
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("date")
        theirs = parsedate_to_datetime(date or "").timestamp()
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return skipped("clock", f"{where} does not tell the time")
    skew = time.time() - theirs
    if abs(skew) > SKEW:
        words = f"is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} {where}"
        return failed("clock", words, "set this machine's clock, and keep it right with `timedatectl set-ntp true`")
    return ok("clock", f"agrees with {where}")


def _certificate(place: Place, error: ssl.SSLCertVerificationError) -> Finding:
    found = f"the certificate of {place.host}:{place.port} is not accepted: {error.verify_message}"
    if error.verify_code in EXPIRED:
        return failed(place.setting, found, "have its operator renew it, unless this machine's clock is wrong")
    if error.verify_code in NOT_YET:
        return failed(place.setting, found, "set this machine's clock")
    if error.verify_code in NAMES:
        return failed(place.setting, found, f"name the server in {place.setting} as its certificate does")
    remedy = "name the file with the root certificate that signed it with SSL_CERT_FILE, or install ca-certificates"
    return failed(place.setting, found, remedy)


def _unreachable(place: Place, proxy: str | None, error: Exception) -> Finding:
    """The text of an error may quote the proxy's URL, and that its password: only its host is shown."""
    where = f"{place.host}:{place.port}"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if proxy is not None:
        through = urlsplit(proxy).hostname
        found = f"{where} is not reached through the proxy {through}: {reason}"
        if "407" in reason:
            return failed(place.setting, found, "put the user and password that it asks for into HTTPS_PROXY")
        return failed(place.setting, found, f"correct HTTPS_PROXY, or add {place.host} to NO_PROXY")
    if isinstance(error, ConnectionRefusedError):
        remedy = f"see that the control plane runs, and that {place.setting} names its port"
        return failed(place.setting, f"nobody listens on {where}", remedy)
    remedy = f"let this machine's firewall connect to {where}, or set HTTPS_PROXY"
    return failed(place.setting, f"{where} is not reached: {reason}", remedy)
