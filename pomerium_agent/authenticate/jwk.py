"""Public keys as JSON Web Keys, with the key id that this protocol uses (zero link 7, N-44)."""

import base64
import hashlib
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import ec

SigningKey = ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey | Mapping[str, str]

COORDINATE_BYTES = 32


def public_jwk(key: SigningKey) -> dict[str, str]:
    """The public half of a P-256 key as a JWK: for signatures, ES256, `kid` the hex RFC 7638 SHA-256 thumbprint.

    A mapping is taken as a JWK already and only its public members are kept. Raises ValueError when the key is
    not on P-256.
    """
    if isinstance(key, Mapping):
        members = {name: key.get(name, "") for name in ("crv", "kty", "x", "y")}
    else:
        public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
        if not isinstance(public.curve, ec.SECP256R1):
            raise ValueError(f"the signing key is on {public.curve.name}; ES256 needs P-256")
        point = public.public_numbers()
        members = {"crv": "P-256", "kty": "EC", "x": _base64url(point.x), "y": _base64url(point.y)}
    if (members["crv"], members["kty"]) != ("P-256", "EC") or not (members["x"] and members["y"]):
        raise ValueError("the signing key is not a P-256 public key")
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
    kid = hashlib.sha256(canonical.encode()).hexdigest()
    return {"use": "sig", "kty": "EC", "kid": kid, "crv": "P-256", "alg": "ES256", "x": members["x"], "y": members["y"]}


def _base64url(coordinate: int) -> str:
    return base64.urlsafe_b64encode(coordinate.to_bytes(COORDINATE_BYTES, "big")).rstrip(b"=").decode()
