"""The id of an identity provider: a hash of what is configured of it, the same on every replica (authenticate 3.9)."""

import hashlib
from dataclasses import replace

from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.pb.pomerium.identity_pb2 import Provider

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_VERSIONS = {"github": 1}


def with_id(settings: ProviderSettings) -> ProviderSettings:
    """The same settings, with the id that follows from them."""
    return replace(settings, id=provider_id(settings))


def provider_id(settings: ProviderSettings) -> str:
    """By what is configured, as it is configured; which audiences an access token may have does not count."""
    message = Provider(
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        type=settings.type,
        scopes=settings.scopes,
        url=settings.url,
        request_params=settings.request_params,
        authenticate_service_url=settings.authenticate_url,
        version=_VERSIONS.get(settings.type, 0),
    )
    return base62(hashlib.sha256(message.SerializeToString(deterministic=True)).digest())


def base62(data: bytes) -> str:
    """Bits from the least significant end, six at a time; where six would be 60 to 63 or 30, 31, only five."""
    value, bits = int.from_bytes(data, "big"), 8 * len(data)
    text = []
    while bits > 0:
        window = min(6, bits)
        digit = value & ((1 << window) - 1)
        taken = window
        if digit & 0x1E == 0x1E and (bits > window or digit > 31):
            digit, taken = digit & 0x1F, 5
        text.append(ALPHABET[digit])
        value >>= taken
        bits -= taken
    return "".join(text)
