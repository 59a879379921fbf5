"""Connection strings: URL and key=value, several hosts, TLS, pool keys; and nothing of a password (11.1, D-35)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.postgres import ConnectionString, parse_connection
from pomerium_agent.errors import SettingsError

SECRET = "hunter2"


def test_a_url_says_everything() -> None:
    found = parse_connection(
        "postgres://ada:p%40ss%3Aw@db1:6000,[::1]:6001,db3/records?sslmode=verify-full&sslrootcert=/etc/ca.pem"
        "&application_name=edge&target_session_attrs=primary&connect_timeout=3&pool_max_conns=20&pool_min_conns=2"
        "&pool_max_conn_lifetime=1h&statement_cache_capacity=512&search_path=other"
    )

    assert found.hosts == (("db1", 6000), ("::1", 6001), ("db3", 5432))
    assert (found.user, found.password, found.database) == ("ada", "p@ss:w", "records")
    assert found.tls == {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}
    assert found.settings == {"application_name": "edge", "search_path": "other"}
    assert (found.target, found.connect_seconds) == ("primary", 3.0)
    assert found.max_connections == 20


def test_pairs_say_the_same() -> None:
    found = parse_connection(
        r"host=db1,db2 port=6000 user = ada password='it\'s a \\ secret' dbname=records sslmode=require "
        "passfile=/run/pgpass keepalives=1"
    )

    assert found.hosts == (("db1", 6000), ("db2", 6000))
    assert (found.user, found.password, found.database) == ("ada", "it's a \\ secret", "records")
    assert (found.tls, found.passfile) == ({"sslmode": "require"}, "/run/pgpass")


def test_what_is_left_out_has_a_sensible_value() -> None:
    """A replica can only use a server that can be written to, so that is what it looks for."""
    assert (
        parse_connection("postgresql://")
        == parse_connection("postgres:///")
        == ConnectionString(settings={"application_name": "pomerium-agent"})
    )
    assert ConnectionString().target == "read-write"
    assert parse_connection("postgres:///x?host=/run/postgresql&port=5433").hosts == (("/run/postgresql", 5433),)
    assert parse_connection("postgres://%2Frun%2Fpostgresql/x").hosts == (("/run/postgresql", 5432),)
    assert parse_connection("postgres://ada@db/x?database=y").database == "y"
    assert parse_connection("host='' port=6000 user=ada").hosts == (("localhost", 6000),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "postgres://"),
        ("hunter2", "postgres://"),
        ("mysql://ada:hunter2@db/x", "postgres://"),
        ("postgres://ada:hunter2#2@db/x", "%23"),
        ("postgres://ada:hunter2@[::1/x", "URL"),
        ("postgres://ada:hunter2@db:port/x", "port"),
        ("postgres://ada:hunter2@db:70000/x", "port"),
        ("postgres://ada:hunter2@db/x?sslmode=hunter2", "sslmode"),
        ("postgres://ada:hunter2@db/x?target_session_attrs=standby", "read-write"),
        ("postgres://ada:hunter2@db/x?target_session_attrs=hunter2", "read-write"),
        ("postgres://ada:hunter2@db/x?sslmode=require&sslrootcert=system", "verify-full"),
        ("postgres://ada:hunter2@db/x?pool_max_conns=hunter2", "pool_max_conns"),
        ("postgres://ada:hunter2@db/x?service=prod", "service"),
        ("host=a,b,c port=1,2 password=hunter2", "3 hosts and 2 ports"),
        ("host=a password=hunter2 hunter2", "name=value"),
        ("host=a password='hunter2", "name=value"),
    ],
)
def test_a_string_that_cannot_be_used_is_refused_in_words_without_its_values(text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match="databroker storage") as refusal:
        parse_connection(text)

    assert complaint in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_password_does_not_show_in_what_was_read() -> None:
    for text in (f"postgres://ada:{SECRET}@db/x?sslpassword={SECRET}", f"user=ada password={SECRET}"):
        assert SECRET not in repr(parse_connection(text))


@given(st.text(), st.sampled_from(["", "postgres://", "postgres://ada:hunter2@", "host="]))
def test_no_text_breaks_the_reader(text: str, start: str) -> None:
    refused = ""
    try:
        parse_connection(start + text)
    except SettingsError as refusal:
        refused = str(refusal)

    assert SECRET not in refused


names = st.text(st.characters(exclude_categories=["C"], exclude_characters="\0"), min_size=1, max_size=20)


@given(user=names, password=names)
def test_pairs_carry_any_name_and_password(user: str, password: str) -> None:
    def quoted(value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    found = parse_connection(f"user={quoted(user)}  password = {quoted(password)}")

    assert (found.user, found.password) == (user, password)
