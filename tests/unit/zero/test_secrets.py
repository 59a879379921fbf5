"""What is derived from the token: the vectors of zero link 7 and 8.1."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.zero.seal import seal, unseal
from pomerium_agent.zero.secrets import derive_secrets

D = "ce963b17a71008fcdbb480b8734f7a4c66fd40cf1ee09afba095d76da5de8f63"
KID = "4d89524fe7a1c1eb8618a95db3caf7ff5a2eea50d492956fec2e29cf639475b5"
COOKIE_SECRET = "FNFfAwWNf+5j3Cj1ZLe5/j2lFPgNqtS/G6vjDB72GIw="
FILE_KEY = "41ffc98d6ed1e918d39b424ad8a36e114bae18307d53e7b2fd99c15e5ce299af"
PLAINTEXT = b'{"clusterId":"c","organizationId":"o","pseudonymizationKey":"","sharedSecret":""}'
SEALED = bytes.fromhex(
    "882e8e9ee8e7f4957c5df274221d0c0c5971cd5ea4d1a0eb305318d1fd4fa234f6592d9b2c2c8144d07808bff901fbb52748af8ef8"
    "46bea50a238ed55762eff3c2ed75c1c507d023dabcf37552530f50ac4f5f10f56d6843578caa8b94e6630b50"
    "000102030405060708090a0b0c0d0e0f1011121314151617"
)


def test_the_secrets_of_a_token_are_those_of_every_other_replica() -> None:
    """Z-3, Z-4."""
    secrets = derive_secrets("secret")

    assert f"{secrets.signing_key.private_numbers().private_value:064x}" == D
    assert secrets.kid == KID
    assert base64.b64encode(secrets.cookie_secret).decode() == COOKIE_SECRET
    assert secrets.file_key.hex() == FILE_KEY


def test_the_signing_key_is_written_as_an_ec_private_key_of_64_columns() -> None:
    """Z-5."""
    pem = derive_secrets("secret").signing_key_pem

    lines = pem.decode().split("\n")
    key = load_pem_private_key(pem, password=None)
    assert lines[0] == "-----BEGIN EC PRIVATE KEY-----"
    assert lines[-2:] == ["-----END EC PRIVATE KEY-----", ""]
    assert len(lines[1]) == 64
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert f"{key.private_numbers().private_value:064x}" == D


def test_derived_secrets_do_not_show_themselves() -> None:
    secrets = derive_secrets("secret")

    assert repr(secrets) == f"DerivedSecrets(kid='{KID}')"


def test_a_file_of_the_reference_is_opened() -> None:
    """Z-6."""
    assert unseal(bytes.fromhex(FILE_KEY), SEALED) == PLAINTEXT


def test_a_file_of_ours_has_the_layout_of_the_reference() -> None:
    """Z-6: ciphertext, tag, and the nonce last."""
    nonce = bytes(range(24))

    assert seal(bytes.fromhex(FILE_KEY), PLAINTEXT, nonce) == SEALED
    assert unseal(bytes.fromhex(FILE_KEY), seal(bytes.fromhex(FILE_KEY), PLAINTEXT)) == PLAINTEXT


@pytest.mark.parametrize("length", [0, 1, 24])
def test_too_few_bytes_to_hold_anything_are_rejected(length: int) -> None:
    """Z-7."""
    with pytest.raises(ConfigRejected, match="too short"):
        unseal(bytes(32), bytes(length))


@pytest.mark.parametrize("sealed", [SEALED, SEALED[:-1], SEALED[1:], bytes(25)])
def test_damaged_bytes_or_another_token_are_rejected(sealed: bytes) -> None:
    """Z-7."""
    with pytest.raises(ConfigRejected, match="damaged, or sealed with another cluster token"):
        unseal(bytes(32), sealed)
