"""Public keys as JSON Web Keys, with the key id that this protocol uses (zero link 7, N-44, authorize 13)."""

import base64
import hashlib
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec, rsa

SigningKey = ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey | rsa.RSAPrivateKey | rsa.RSAPublicKey
KeyMaterial = SigningKey | Mapping[str, str]

COORDINATE_BYTES = 32


def public_jwk(key: KeyMaterial) -> dict[str, str]:
    """The public half of a key as a JWK for signatures: ES256 or RS256, `kid` the hex RFC 7638 SHA-256 thumbprint.

    A mapping is taken as the JWK of a P-256 key already, and only its public members are kept. Raises ValueError when
    the key is on another curve.
    """
    members = _members(key)
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    kid = hashlib.sha256(canonical.encode()).hexdigest()
    alg = "ES256" if members["kty"] == "EC" else "RS256"
    return {"use": "sig", "kid": kid, "alg": alg, **members}


def _members(key: KeyMaterial) -> dict[str, str]:
    """Exactly the members that a thumbprint is made of."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        numbers = (key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key).public_numbers()
        return {"e": _shortest(numbers.e), "kty": "RSA", "n": _shortest(numbers.n)}
    if isinstance(key, Mapping):
        members = {name: key.get(name, "") for name in ("crv", "kty", "x", "y")}
        if (members["crv"], members["kty"]) != ("P-256", "EC") or not (members["x"] and members["y"]):
            raise ValueError("the signing key is not a P-256 public key")
        return members
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    if not isinstance(public.curve, ec.SECP256R1):
        raise ValueError(f"the signing key is on {public.curve.name}; ES256 needs P-256")
    point = public.public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _coordinate(point.x), "y": _coordinate(point.y)}


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(COORDINATE_BYTES, "big"))


def _shortest(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
