"""How this machine reaches the outside: the roots it trusts and the proxies it must go through."""

import os
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.request import getproxies_environment, proxy_bypass

import certifi
from yarl import URL

from pomerium_agent.errors import SettingsError

# Where Linux distributions keep their bundle of roots; the first that exists is taken.
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def trusted_roots(environ: Mapping[str, str] | None = None) -> bytes:
    """The PEM certificates we trust: SSL_CERT_FILE, else the system's, else those of certifi.

    HTTP and gRPC are given the same bytes, so that they never disagree about whom to trust.
    """
    env = os.environ if environ is None else environ
    if env.get("SSL_CERT_FILE"):
        path = Path(env["SSL_CERT_FILE"])
        try:
            return path.read_bytes()
        except OSError as error:
            raise SettingsError(f"SSL_CERT_FILE: cannot read {path}: {error.strerror}") from error
    for bundle in (*SYSTEM_BUNDLES, certifi.where()):
        if Path(bundle).is_file():
            return Path(bundle).read_bytes()
    raise SettingsError("no trusted root certificates found; install ca-certificates or set SSL_CERT_FILE")


def tls_context(roots: bytes) -> ssl.SSLContext:
    """TLS 1.2 or newer, trusting `roots` and nothing else."""
    try:
        context = ssl.create_default_context(cadata=roots.decode("ascii", "ignore") or "none")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(f"the trusted root certificates cannot be read: {error}; check SSL_CERT_FILE") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def proxy_url(scheme: str, host: str, port: int) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for a host; None: go there directly.

    Read here, and not left to the libraries: aiohttp would also send credentials from ~/.netrc to whatever
    host a download URL names, and gRPC knows the lower-case names only.
    """
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or _on_this_machine(host) or proxy_bypass(f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _on_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: URL) -> URL | None:
    """The proxy for an HTTP request; the credentials it wants stand in its URL."""
    found = proxy_url(url.scheme, url.host or "", url.port or 0)
    return URL(found) if found is not None else None
