"""An assertion that came with a request: passed on only when one of our replicas signed it (authorize 24)."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from pomerium_agent.authorize.gather import Question
from pomerium_agent.sessions.assertion import ASSERTION, ASSERTION_FOR

GRACE = 60  # seconds after its expiry: it may have waited at the service that passes it on
MAX_TOKEN = 16_384  # characters


def assertion_for(question: Question, keys: Sequence[Mapping[str, str]], now: datetime) -> str:
    """The assertion on whose behalf a service calls; empty when there is none that is ours."""
    token = question.headers.get(ASSERTION_FOR) or question.headers.get(ASSERTION) or ""
    return token if token and is_ours(token, keys, now) else ""


def is_ours(token: str, keys: Sequence[Mapping[str, str]], now: datetime) -> bool:
    """Whether one of our keys, which are JWKs, signed it, and not too long ago. Never raises."""
    if len(token) > MAX_TOKEN or not token.isascii() or token.count(".") != 2:
        return False
    signed, _, signature_text = token.rpartition(".")
    header_text, _, payload_text = signed.partition(".")
    header, payload, signature = _object(header_text), _object(payload_text), _decode(signature_text)
    key = next((key for key in keys if key["kid"] == header.get("kid")), None)
    if key is None or header.get("alg") != key["alg"] or signature is None:
        return False
    expires = payload.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int) or expires + GRACE < now.timestamp():
        return False
    return _verifies(_key(tuple(sorted(key.items()))), signed.encode(), signature)


def _verifies(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, signed: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            return True
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=8)
def _key(jwk: tuple[tuple[str, str], ...]) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    numbers = dict(jwk)
    if numbers["kty"] == "RSA":
        return rsa.RSAPublicNumbers(_number(numbers["e"]), _number(numbers["n"])).public_key()
    return ec.EllipticCurvePublicNumbers(_number(numbers["x"]), _number(numbers["y"]), ec.SECP256R1()).public_key()


def _number(text: str) -> int:
    return int.from_bytes(_decode(text) or b"", "big")


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads((_decode(text) or b"").decode())
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
