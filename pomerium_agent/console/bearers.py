"""Short-lived signed words: the bearer a token is exchanged for, and the signature of a download URL.

Both carry the generation of the cluster's token. Rotating the token makes the next generation, and the words of
an earlier one work for as long as that token does.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pomerium_agent.console.sealing import Seal

BEARER_LIFE = timedelta(hours=1)  # zero link 5: replicas expect about an hour
LINK_LIFE = timedelta(hours=1)  # a replica stops using a URL 15 minutes before it expires (Z-33)
_VERSION = "1"


class Unauthenticated(Exception):
    """A bearer or a signature that is not ours, or no longer. The text may be shown to the caller."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who a caller is, until when."""

    cluster_id: str
    generation: int
    expires: int  # Unix seconds


class Signer:
    """Makes and checks the words. Nothing is stored: the signature says it all."""

    def __init__(self, seal: Seal, *, bearer_life: timedelta = BEARER_LIFE, link_life: timedelta = LINK_LIFE) -> None:
        self._bearer_key = seal.subkey("bearers")
        self._link_key = seal.subkey("download links")
        self.bearer_life = bearer_life
        self.link_life = link_life

    def bearer(self, cluster_id: str, generation: int, now: datetime) -> str:
        """A bearer for one cluster, good for `bearer_life`."""
        expires = int((now + self.bearer_life).timestamp())
        text = f"{_VERSION}.{cluster_id}.{generation}.{expires}"
        return f"{text}.{_sign(self._bearer_key, text)}"

    def read_bearer(self, text: str, now: datetime) -> Bearer:
        """What a bearer says; Unauthenticated unless we signed it and it has not expired."""
        signed, _, signature = text.rpartition(".")
        if not _same(_sign(self._bearer_key, signed), signature):
            raise Unauthenticated("this bearer was not issued by this console")
        _, cluster_id, generation, expires = signed.split(".")  # we signed it, so it has this shape
        bearer = Bearer(cluster_id, int(generation), int(expires))
        if now.timestamp() >= bearer.expires:
            raise Unauthenticated("this bearer has expired; exchange the cluster token for a new one")
        return bearer

    def link(self, cluster_id: str, bundle_id: str, generation: int, now: datetime) -> dict[str, str]:
        """The query parameters that open one bundle of one cluster for `link_life`."""
        expires = str(int((now + self.link_life).timestamp()))
        return {"expires": expires, "signature": self._link_signature(cluster_id, bundle_id, generation, expires)}

    def check_link(
        self,
        cluster_id: str,
        bundle_id: str,
        generations: Sequence[int],
        *,
        expires: str,
        signature: str,
        now: datetime,
    ) -> None:
        """Unauthenticated unless `link` made these parameters for this bundle and they have not expired."""
        right = (self._link_signature(cluster_id, bundle_id, each, expires) for each in generations)
        if not any(_same(each, signature) for each in right):
            raise Unauthenticated("the signature of this URL does not match")
        if now.timestamp() >= int(expires):
            raise Unauthenticated("this URL has expired; ask for a new one")

    def _link_signature(self, cluster_id: str, bundle_id: str, generation: int, expires: str) -> str:
        return _sign(self._link_key, "\0".join((cluster_id, bundle_id, str(generation), expires)))


def _sign(key: bytes, text: str) -> str:
    mac = hmac.digest(key, text.encode(errors="surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _same(one: str, other: str) -> bool:
    """Whether two texts are equal, in a time that does not tell how far; headers may hold bytes that are no text."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))
