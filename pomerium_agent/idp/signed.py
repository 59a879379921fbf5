"""JWTs that others signed: what they claim, and whether one of their keys signed it. Pure."""

import json
from collections.abc import Iterable
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key

MAX_TOKEN = 16_384  # of what comes in a header
MAX_JWT = 131_072  # of what comes in a provider's answer: some list hundreds of groups
# What may be used at all: never a secret shared with others, never nothing.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
Object = dict[str, Any]


class Registry(jws.JWSRegistry):
    """The algorithms that somebody may use. The library would print a warning with each use of EdDSA's old name."""

    max_header_length = 8192  # certificates may travel in it

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()) or name not in self.algorithms:
            raise UnsupportedAlgorithmError()
        return self.algorithms[name]


def read_unverified(token: str) -> tuple[Object, Object]:
    """Header and claims as the token has them, only to know whom to ask. Raises ValueError for what is no JWT."""
    try:
        if len(token) > MAX_JWT:
            raise ValueError
        registry = Registry(algorithms=sorted(ALGORITHMS), strict_check_header=False)
        unverified = jws.extract_compact(token.encode(), registry=registry)
        header, claims = json.loads(json.dumps(unverified.headers())), read_object(unverified.payload)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("not a JWT") from None
    if not isinstance(header, dict) or not isinstance(header.get("kid", ""), str):
        raise ValueError("not a JWT")
    return header, claims


def verify_signature(token: str, keys: Iterable[Key], algorithms: Iterable[str]) -> Object | None:
    """The claims of a token that one of `keys` signed in one of those ways; None when none did."""
    registry = Registry(algorithms=[name for name in algorithms if name in ALGORITHMS], strict_check_header=False)
    for key in keys:
        try:
            return read_object(jws.deserialize_compact(token, key, registry=registry).payload)
        except (JoseError, ValueError, TypeError, RecursionError):  # another kind of key, a false signature
            continue
    return None


def read_object(text: bytes) -> Object:
    """A JSON object that can be kept anywhere: no lone surrogates, no NaN. Raises ValueError."""
    try:
        claims = json.loads(text.decode(), parse_constant=_no_number)
        json.dumps(claims, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(claims, dict):
        raise ValueError("not a JSON object")
    return claims


def sign(header: Object, claims: Object, key: Key) -> str:
    """A compact JWT by our own key; `header` names the algorithm."""
    registry = Registry(algorithms=[str(header["alg"])], strict_check_header=False)
    return jws.serialize_compact(header, json.dumps(claims).encode(), key, registry=registry)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
