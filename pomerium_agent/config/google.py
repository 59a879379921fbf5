"""Google's serverless platforms: who we are there, and for which audience we say so (authorize 16)."""

import base64
import json
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa

from pomerium_agent.config.action import Action, Forward
from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.identity_providers import LOOPBACK
from pomerium_agent.config.pem import parse_private_key
from pomerium_agent.config.snapshot import GoogleAccount
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret

TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105  # where tokens are asked for
_REMEDY = "paste the JSON key file of the service account, as it is or as base64"


def parse_google_account(text: str) -> GoogleAccount:
    """A service account's key file, plain or base64. Raises Unusable, and never repeats any of it."""
    document = _document(text)
    email, key, url = document.get("client_email"), document.get("private_key"), document.get("token_uri", TOKEN_URL)
    if not isinstance(email, str) or not email or not isinstance(key, str) or not isinstance(url, str):
        raise Unusable("it has no client_email or no private_key", _REMEDY)
    try:
        pem, parsed = parse_private_key(key)
    except Unusable as why:
        raise Unusable(f"its private_key cannot be used: {why.reason}", _REMEDY) from None
    if not isinstance(parsed, rsa.RSAPrivateKey):
        raise Unusable("its private_key is not RSA", _REMEDY)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise Unusable("its token_uri is not a URL", _REMEDY) from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise Unusable("its token_uri is not an https URL", _REMEDY)
    key_id = document.get("private_key_id", "")
    return GoogleAccount(email=email, key_id=key_id if isinstance(key_id, str) else "", key=Secret(pem), token_url=url)


def parse_audience(route: config_pb2.Route, action: Action, complaints: Complaints) -> str:
    """The audience of the identity tokens that an upstream is sent: the host of the last `to`; empty: none is sent."""
    if not route.enable_google_cloud_serverless_authentication or not isinstance(action, Forward):
        return ""
    endpoints = action.upstream.endpoints
    host = urlsplit(f"//{endpoints[-1].hostname}").hostname if endpoints else ""
    if not host:
        complaints.refuse(
            "enable_google_cloud_serverless_authentication",
            "the last URL of to has no host that could be the audience",
            "use an https:// upstream, or remove it",
        )
        return ""
    return f"https://[{host}]" if ":" in host else f"https://{host}"


def _document(text: str) -> dict[str, object]:
    plain = text.strip()
    try:
        if not plain.startswith("{"):
            plain = base64.b64decode("".join(plain.split()), validate=True).decode()
        document = json.loads(plain)
    except (ValueError, RecursionError):  # also of base64 and UTF-8
        raise Unusable("it is neither JSON nor base64 of JSON", _REMEDY) from None
    if not isinstance(document, dict):
        raise Unusable("it is not a JSON object", _REMEDY)
    return document
