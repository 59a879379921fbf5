"""Known answers (authenticate 13): what another implementation of the same description computes (N-1)."""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pomerium_agent.handoff import hpke
from pomerium_agent.handoff.box import close_box, encode, encode_raw, open_box
from pomerium_agent.handoff.keys import derive, hosted_client_key, hosted_client_secret, hpke_key
from pomerium_agent.handoff.sealed import Version, open_query, read_sealed, seal_query
from pomerium_agent.handoff.signed import signed_url, url_signature
from pomerium_agent.idp.naming import provider_id
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.settings import Secret

S = bytes(range(0x20))
S2 = bytes(range(0x20, 0x40))


def test_v1_the_signature_of_a_url() -> None:
    """V-1, N-2: one space, between the two times."""
    message = (
        "https://authenticate.example.com/.pomerium/sign_in?pomerium_additional_hosts=&pomerium_expiry=1700000300"
        "&pomerium_idp_id=idp-1&pomerium_issued=1700000000"
        "&pomerium_redirect_uri=https%3A%2F%2Fapp.example.com%2Fa%3Fb%3Dc+d1700000000 1700000300"
    )
    assert url_signature(message, S) == "2jxY8yyVtp-MIdhhiYi5yDUSJ-J7cBjSa8uciLE2S2Y="
    url = signed_url(
        "https://authenticate.example.com/.pomerium/sign_in",
        [
            ("pomerium_redirect_uri", "https://app.example.com/a?b=c d"),
            ("pomerium_idp_id", "idp-1"),
            ("pomerium_additional_hosts", ""),
        ],
        S,
        datetime.fromtimestamp(1700000000, UTC),
    )
    assert url.endswith("&pomerium_signature=2jxY8yyVtp-MIdhhiYi5yDUSJ-J7cBjSa8uciLE2S2Y%3D")


def test_v2_the_key_of_a_cluster() -> None:
    """V-2."""
    assert derive(S, b"pomerium/hpke").hex() == "7b289034adcf642f6fbb9e1a8ad29b942ee2ac9a90e14ba512ad5f3f1e3dd20a"
    key = hpke_key(S)
    assert key.private_bytes_raw().hex() == "75137ba57e59f9ecd4394b1ba37e364903d6b1d0b534fc39a5470edce0a8dbc3"
    assert encode_raw(hpke.public_bytes(key)) == "G4DAqPMZRN5jdYfXnRJh16AIA4rQap-Jc6BqNNfT1GQ"


def test_v3_a_sealed_query_of_the_first_version() -> None:
    """V-3."""
    receiver = hpke_key(S2)
    assert encode_raw(hpke.public_bytes(receiver)) == "eTjS30RWle5hKLCrY9fOc1v4n7dxMI7Qaac_iGGcYhQ"
    query = seal_query(
        [("pomerium_redirect_uri", "https://app.example.com/"), ("pomerium_idp_id", "idp-1")],
        sender=hpke_key(S),
        receiver=hpke.public_bytes(receiver),
        version=Version.V1,
        ephemeral=hpke.derive_key_pair(bytes(range(0x40, 0x60))),
    )
    expected = (
        "sln27pLcugERhQsTs_bczIJ3JvmwgjWrYpIraz8_KhnUjK4lpEwTv1ni_krh5_lkEhKMpu9pcPXIS1KrgSKf2ryTLoWyPzwx5R4LcG3SpLzrlbDR"
        "vabHnpXuowq0oLgs2O0n4ARBSuqLsYvESAltV05P7pYAdAcTufwJaw"
    )
    assert f"pomerium_hpke_query={expected}" in query
    sealed = read_sealed(query)
    assert sealed is not None
    assert sealed.version is Version.V1
    assert open_query(sealed, receiver) == {
        "pomerium_idp_id": "idp-1",
        "pomerium_redirect_uri": "https://app.example.com/",
    }


def test_v4_a_box() -> None:
    """V-4."""
    nonce = bytes(range(0x18))
    plain = close_box(S, b"hello", nonce=nonce)
    bound = close_box(S, b"hello", bound_to=b"tok|1700000000||", nonce=nonce)
    assert encode(plain) == "9qdjE_-zLfjQQ-gwJ3Q_6qavRkziAAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
    assert encode(bound) == "9qdjE_9YpVHzZl8hMC6SRlwvF_WSAAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
    assert open_box(S, plain) == open_box(S, bound, bound_to=b"tok|1700000000||") == b"hello"


def test_v5_the_provider_of_those_who_configure_none() -> None:
    """V-5."""
    settings = ProviderSettings(authenticate_url="https://authenticate.pomerium.app")
    assert provider_id(settings) == "FFDq9fwK9Er0KbF17cm6cP0LYunjOAd4TLWRyBHApqQ"


def test_v6_the_id_of_a_provider() -> None:
    """V-6."""
    settings = ProviderSettings(
        type="oidc",
        url="https://idp.example.com",
        client_id="cid",
        client_secret=Secret("sec"),
        scopes=("openid", "email"),
        request_params={"prompt": "login", "b": "1"},
        authenticate_url="https://authenticate.example.com",
    )
    assert provider_id(settings) == "j5ZomjD6muh85gN3KwmHGh7OOYeT8q3Te8djFNyKFh5"


def test_v8_the_client_key_for_the_hosted_service() -> None:
    """V-8."""
    key = hosted_client_key(S)
    assert key.private_bytes_raw().hex() == "8ea4c301d15b52eeea2b99c20f4d656194b2154f5b844461019ec6ccb6baac30"
    assert (
        key.public_key().public_bytes_raw().hex() == "1fbc093b04155f4dc764f1360758bce134e33321d6b3de1fb3e02b304624dc87"
    )
    assert len(hosted_client_secret(S)) == 86


def test_the_published_vector_of_the_mode() -> None:
    """RFC 9180 A.2.3: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, auth (N-1).

    The vector has an `info` and associated data, which the protocol here never has, so it is taken step by step.
    """
    ephemeral = hpke.derive_key_pair(bytes.fromhex("938d3daa5a8904540bc24f48ae90eed3f4f7f11839560597b55e7c9598c996c0"))
    receiver = hpke.derive_key_pair(bytes.fromhex("64835d5ee64aa7aad57c6f2e4f758f7696617f8829e70bc9ac7a5ef95d1c756c"))
    sender = hpke.derive_key_pair(bytes.fromhex("9d8f94537d5a3ddef71234c0baedfad4ca6861634d0b94c3007fed557ad17df6"))
    enc, to, by = hpke.public_bytes(ephemeral), hpke.public_bytes(receiver), hpke.public_bytes(sender)
    assert enc.hex() == "f7674cc8cd7baa5872d1f33dbaffe3314239f6197ddf5ded1746760bfc847e0e"
    assert to.hex() == "1a478716d63cb2e16786ee93004486dc151e988b34b475043d3e0175bdb01c44"
    assert by.hex() == "f0f4f9e96c54aeed3f323de8534fffd7e0577e4ce269896716bcb95643c8712b"

    shared = hpke._exchange(ephemeral, to) + hpke._exchange(sender, to)
    key, nonce = hpke._schedule(shared, enc + to + by, b"Ode on a Grecian Urn")
    assert key.hex() == "b071fd1136680600eb447a845a967d35e9db20749cdf9ce098bcc4deef4b1356"
    assert nonce.hex() == "d20577dff16d7cea2c4bf780"
    sealed = ChaCha20Poly1305(key).encrypt(nonce, b"Beauty is truth, truth beauty", b"Count-0")
    assert sealed.hex() == "ab1a13c9d4f01a87ec3440dbd756e2677bd2ecf9df0ce7ed73869b98e00c09be111cb9fdf077347aeb88e61bdf"
