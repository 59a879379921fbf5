"""The settings of this machine: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest

from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import read_settings

TOKEN = {"POMERIUM_ZERO_TOKEN": "abc", "HOME": "/home/ada"}


def test_the_endpoints_default_to_the_hosted_service() -> None:
    """Z-2."""
    settings = read_settings(TOKEN)

    assert settings.cluster_api == "https://console.pomerium.app/cluster/v1"
    assert settings.connect.authority == "connect.pomerium.app:443"
    assert settings.otel.authority == "telemetry.pomerium.app:443"


def test_each_endpoint_can_be_overridden() -> None:
    """Z-2."""
    settings = read_settings(
        TOKEN
        | {
            "CLUSTER_API_ENDPOINT": "http://127.0.0.1:1/x",
            "CONNECT_SERVER_ENDPOINT": "http://127.0.0.1:2",
            "POMERIUM_OTEL_ENDPOINT": "http://[::1]",
        }
    )

    assert settings.cluster_api == "http://127.0.0.1:1/x"
    assert settings.connect.authority == "127.0.0.1:2"
    assert settings.otel.authority == "[::1]:80"
    assert not settings.otel.tls


def test_an_existing_but_empty_variable_means_not_managed(tmp_path: Path) -> None:
    """Z-1: the config file is not consulted when the variable exists."""
    config = tmp_path / "config.yaml"
    config.write_text("pomerium_zero_token: from-file\n")

    with pytest.raises(SettingsError, match="no cluster token"):
        read_settings({"POMERIUM_ZERO_TOKEN": ""}, config)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "Pomerium_Zero_Token: from-file\n"),
        ("a.json", '{"pomerium_zero_token": "from-file"}'),
        ("a.toml", 'POMERIUM_ZERO_TOKEN = "from-file"\n'),
    ],
)
def test_the_config_file_is_asked_when_the_variable_is_absent(tmp_path: Path, name: str, text: str) -> None:
    """Z-1: any of the usual formats, the key in any case."""
    config = tmp_path / name
    config.write_text(text)

    assert read_settings({"HOME": "/home/ada"}, config).token == "from-file"


@pytest.mark.parametrize("text", ["[", "pomerium_zero_token: [", "\0"])
def test_an_unreadable_config_file_holds_no_token(tmp_path: Path, text: str) -> None:
    """Z-1: zero link 1, read errors are ignored."""
    config = tmp_path / "config.yaml"
    config.write_text(text)

    with pytest.raises(SettingsError, match="no cluster token"):
        read_settings({}, config)


def test_the_token_is_taken_byte_for_byte() -> None:
    """Z-3."""
    assert read_settings(TOKEN | {"POMERIUM_ZERO_TOKEN": "aB+/=_-."}).token == "aB+/=_-."


@pytest.mark.parametrize("token", [" abc", "abc ", "abc\n", "ab c"])
def test_a_token_with_spaces_is_refused_with_the_place_it_came_from(token: str) -> None:
    with pytest.raises(SettingsError, match=r"POMERIUM_ZERO_TOKEN.* white space"):
        read_settings({"POMERIUM_ZERO_TOKEN": token})


def test_a_token_file_may_end_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("abc\n")

    assert read_settings({"POMERIUM_ZERO_TOKEN_FILE": str(path)}).token == "abc"


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"POMERIUM_ZERO_TOKEN_FILE: cannot read .*/nothing"):
        read_settings({"POMERIUM_ZERO_TOKEN_FILE": str(tmp_path / "nothing")})


def test_the_token_never_shows_itself() -> None:
    assert "abc" not in repr(read_settings(TOKEN))


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("file://etc/bootstrap.dat", "three slashes"),
        ("file:///", "names no file"),
        ("secret://ns/name", "secret://namespace/name/key"),
        ("s3://bucket/key", "must be file or secret"),
        ("file://[x/a", "is not a URI"),
    ],
)
def test_a_writeback_that_cannot_work_is_refused(uri: str, complaint: str) -> None:
    """Z-28."""
    with pytest.raises(SettingsError, match=complaint):
        read_settings(TOKEN | {"BOOTSTRAP_CONFIG_WRITEBACK_URI": uri})


@pytest.mark.parametrize("uri", ["file:///var/lib/x/bootstrap.dat", "secret://ns/name/key/with/slashes"])
def test_a_writeback_of_either_scheme_is_accepted(uri: str) -> None:
    """Z-28: the key of a secret may contain slashes."""
    assert read_settings(TOKEN | {"BOOTSTRAP_CONFIG_WRITEBACK_URI": uri}).bootstrap_writeback == uri


@pytest.mark.parametrize("url", ["console.example.com", "ftp://a/b", "https://", "https://[::1", "https://a:x/b"])
def test_a_cluster_api_that_cannot_be_an_address_is_refused(url: str) -> None:
    """Z-2."""
    with pytest.raises(SettingsError, match=r"CLUSTER_API_ENDPOINT: .* is not an http or https URL"):
        read_settings(TOKEN | {"CLUSTER_API_ENDPOINT": url})


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", ":-1"])
def test_a_health_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=r"HEALTH_CHECK_ADDR: .* is not host:port"):
        read_settings(TOKEN | {"HEALTH_CHECK_ADDR": address})


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("connect.example.com", "must begin with"),
        ("https://", "names no host"),
        ("https://a/b", "without a path"),
        ("https://a:x", "is not a URL"),
    ],
)
def test_a_connect_endpoint_that_cannot_work_is_refused(url: str, complaint: str) -> None:
    """Zero link 6."""
    with pytest.raises(SettingsError, match=complaint):
        read_settings(TOKEN | {"CONNECT_SERVER_ENDPOINT": url})


def test_an_unknown_log_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="trace, debug, info"):
        read_settings(TOKEN | {"LOG_LEVEL": "loud"})


@pytest.mark.parametrize(("text", "choice"), [("", "exit"), ("exit", "exit"), ("Serve", "serve")])
def test_a_refused_token_stops_the_agent_unless_told_to_go_on_serving(text: str, choice: str) -> None:
    """Z-66."""
    assert read_settings(TOKEN | {"POMERIUM_AGENT_ON_REFUSED": text}).on_refused == choice


def test_an_unknown_answer_to_a_refusal_is_refused_with_the_known_ones() -> None:
    """Z-66."""
    with pytest.raises(SettingsError, match=r"POMERIUM_AGENT_ON_REFUSED: 'ignore' is not one of exit, serve"):
        read_settings(TOKEN | {"POMERIUM_AGENT_ON_REFUSED": "ignore"})


def test_the_writeback_defaults_to_the_file_that_is_read_whatever_it_is_called() -> None:
    settings = read_settings(TOKEN | {"BOOTSTRAP_CONFIG_FILE": "/var/lib/50% off#1/boot?.dat"})

    assert settings.bootstrap_writeback == "file:///var/lib/50%25%20off%231/boot%3F.dat"


def test_variables_of_a_self_managed_pomerium_are_ignored() -> None:
    """R-28, routes 14: the control plane decides; only what belongs to this machine may be said here."""
    foreign = {
        "CERTIFICATE": "x",
        "AUTOCERT": "true",
        "POLICY": "x",
        "HEADERS": "x",
        "SHARED_SECRET": "x",
        "SERVICES": "x",
    }

    settings = read_settings(TOKEN | foreign | {"ADDRESS": "127.0.0.1:8443"})

    assert settings.local.address == "127.0.0.1:8443"
    plain = read_settings(TOKEN | {"ADDRESS": "127.0.0.1:8443"})
    assert settings == plain


@pytest.mark.parametrize(
    "name", ["ADDRESS", "HTTP_REDIRECT_ADDR", "HEALTH_CHECK_ADDR", "GRPC_ADDRESS", "METRICS_ADDRESS"]
)
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", ":99999", ":http", "https://a:1"])
def test_a_misspelt_address_is_refused_and_opens_no_other(name: str, address: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}: .* is not host:port, for example"):
        read_settings(TOKEN | {name: address})


@pytest.mark.parametrize("address", [":8443", "127.0.0.1:8443", "[::1]:8443", "0.0.0.0:0"])
def test_an_address_of_this_machine_is_taken(address: str) -> None:
    assert read_settings(TOKEN | {"ADDRESS": address}).local.address == address


@pytest.mark.parametrize(("text", "answer"), [("", False), ("false", False), ("true", True), ("TRUE", True)])
def test_tokens_are_verified_for_strangers_only_where_that_is_said(text: str, answer: bool) -> None:
    """N-48."""
    settings = read_settings(TOKEN | {"POMERIUM_AGENT_MIXED_CLUSTER": text})

    assert settings.local.mixed_cluster is answer


def test_neither_yes_nor_no_is_named() -> None:
    with pytest.raises(SettingsError, match=r"POMERIUM_AGENT_MIXED_CLUSTER: 'perhaps' is neither"):
        read_settings(TOKEN | {"POMERIUM_AGENT_MIXED_CLUSTER": "perhaps"})


@pytest.mark.parametrize("name", ["token", "config.yaml"])
def test_a_token_in_a_file_may_be_read_again_and_one_in_the_environment_may_not(tmp_path: Path, name: str) -> None:
    """Z-1, Z-3, zero link 18.5."""
    path = tmp_path / name
    text = "pomerium_zero_token: {}\n" if name.endswith("yaml") else "{}\n"
    path.write_text(text.format("before"))
    env = {"HOME": "/home/ada"} | ({} if name.endswith("yaml") else {"POMERIUM_ZERO_TOKEN_FILE": str(path)})
    settings = read_settings(env, path)

    path.write_text(text.format("after"))

    assert settings.token == "before"
    assert settings.token_source.rereadable
    assert settings.token_source.read() == "after"
    path.unlink()
    with pytest.raises(SettingsError):
        settings.token_source.read()
    assert not read_settings(TOKEN, path).token_source.rereadable
