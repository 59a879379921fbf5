"""`pomerium-agent support`: what is in the bundle, and that nothing is in it which was planted as a secret (R-1)."""

import base64
import json
import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.cli.dossier.archive import CONTENTS, pack
from pomerium_agent.cli.dossier.evidence import Evidence, Missing
from pomerium_agent.cli.dossier.parts import PARTS
from pomerium_agent.cli.dossier.redaction import Redaction
from pomerium_agent.config.redact import OFTEN_SECRET, redacted, secrets_of
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.authority import issue_for_loopback

PLANT = "PLANTED"
AT = datetime(2030, 1, 1, tzinfo=UTC)
SENSITIVE: Any = config_pb2.sensitive
PASSWORD = f"{PLANT}-p4ss:w/rd"


def plant(message: Any, where: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Plant a secret in every field that is one, at any depth; the names of these fields."""
    for field in message.DESCRIPTOR.fields:
        name, of = f"{where}.{field.name}", field.message_type
        secret = f"{PLANT}-{name}"
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name):
            continue  # one of them is enough: test_redact looks at each
        if field.full_name in OFTEN_SECRET or field.GetOptions().Extensions[SENSITIVE]:
            yield name
            if of is not None and of.GetOptions().map_entry:
                getattr(message, field.name)["x-planted"] = secret
            elif of is not None and of.full_name == struct_pb2.Struct.DESCRIPTOR.full_name:
                getattr(message, field.name).update({"key": secret})
            elif of is not None:
                getattr(message, field.name).values.append(secret)
            elif field.is_repeated:
                getattr(message, field.name).append(f"authorization=Bearer {secret}")
            else:
                is_bytes = field.type == FieldDescriptor.TYPE_BYTES
                setattr(message, field.name, secret.encode() if is_bytes else secret)
        elif of is None or of.full_name in above or of.full_name.startswith("google."):
            continue
        elif of.GetOptions().map_entry:
            value = of.fields_by_name["value"].message_type
            if value is not None and not value.full_name.startswith("google."):
                yield from plant(getattr(message, field.name)["k"], name, (*above, of.full_name))
        elif field.is_repeated:
            yield from plant(getattr(message, field.name).add(), name, (*above, of.full_name))
        else:
            yield from plant(getattr(message, field.name), name, (*above, of.full_name))


def planted() -> tuple[config_pb2.Config, list[str]]:
    config = config_pb2.Config()
    names = list(plant(config.routes.add(id="r1", **{"from": "https://a.example.com"}), "route"))
    names += plant(config.settings, "settings")
    config.routes[0].to.append(f"https://user:{PASSWORD.replace('/', '%2F')}@upstream.example.com/x?key={PLANT}-query")
    policy = {"allow": {"or": [{"email": {"is": "ada@example.com"}}, {"user": {"is": "uid-of-ada"}}]}}
    config.routes[0].ppl_policies.add(raw=json.dumps([policy]).encode())
    return config, names


def texts_of(packed: tuple[Any, ...]) -> str:
    return "\n".join(each.content.decode() for each in packed if each.content is not None)


def test_no_field_of_the_configuration_that_may_hold_a_secret_is_shown_anywhere() -> None:
    """Every field that the contract marks, and each that often holds one; in what others wrote of it, too."""
    config, names = planted()
    said = [each.decode() if isinstance(each, bytes) else each for each in secrets_of(config)]
    dump = {"configs": [{"anything": text, "b64": base64.b64encode(text.encode()).decode()} for text in said]}
    log = "\n".join([*(json.dumps({"event": text}) for text in said), *(f"[debug] {quote(text)}" for text in said)])

    packed = pack(
        Evidence(
            at=AT,
            config=config,
            envoy={"config_dump.json": json.dumps(dump), "clusters.txt": "\n".join(said)},
            log=log,
            secrets=tuple(secrets_of(config)),
        )
    )

    found = texts_of(packed)
    assert {"route.tls_client_key", "route.kubernetes_service_account_token", "route.idp_client_secret"} <= set(names)
    assert {"settings.cookie_secret", "settings.signing_key", "settings.metrics_basic_auth"} <= set(names)
    assert len(said) == len(names) > 25
    assert PLANT not in found
    assert base64.b64encode(PLANT.encode()).decode()[:8] not in found
    assert "x-planted" in found  # what was set is still seen
    assert "https://a.example.com" in found
    assert "upstream.example.com" in found


def test_the_configuration_alone_needs_no_list_of_secrets() -> None:
    """Each net holds by itself."""
    config, _ = planted()

    assert PLANT not in texts_of(pack(Evidence(at=AT, config=config)))
    assert PLANT not in str(redacted(config, for_strangers=True)).replace(f"{PLANT}-query", "").replace(
        PASSWORD.replace("/", "%2F"), ""
    )


def test_people_are_left_out_unless_they_are_asked_for() -> None:
    config, _ = planted()
    denials = {"latest": [{"email": "ada@example.com", "ip": "192.0.2.7", "session-id": "s-1", "path": "/a"}]}
    log = '{"event": "authorize check", "email": "ada@example.com", "query": "q=private", "user": "uid-of-ada"}'
    evidence = Evidence(at=AT, config=config, denials=denials, log=f"{log}\nbob@example.com went /a?b=private\n")

    without, along = texts_of(pack(evidence)), texts_of(pack(evidence, with_people=True))

    for each in ("ada@example.com", "bob@example.com", "uid-of-ada", "192.0.2.7", "s-1", "private"):
        assert each not in without, each
    assert "person-" in without
    for each in ("ada@example.com", "bob@example.com", "uid-of-ada", "192.0.2.7", "s-1"):
        assert each in along, each
    assert "private" not in along


KEY = issue_for_loopback().key.decode()
SHAPES = {
    "key": KEY,
    "JSON with a key": json.dumps({"pem": KEY}),
    "bearer": f"authorization: Bearer {PLANT}-abcdefgh",
    "cookie": f"Cookie: _pomerium={PLANT}; other={PLANT}",
    "set-cookie in JSON": json.dumps({"line": f"set-cookie: _pomerium={PLANT}; path=/"}),
    "url": f"postgres://user:{PLANT}@db.example.com/records",
    "connection string": f"host=db user=u password={PLANT} sslmode=require",
    "quoted connection string": f"host=db password='{PLANT} {PLANT}'",
    "environment": f"POMERIUM_ZERO_TOKEN={PLANT}",
    "query": f"GET /callback?code={PLANT}&state={PLANT} HTTP/1.1",
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.{PLANT}{PLANT}.{PLANT}",
    "log of Envoy": f"request headers complete:\n':authority', 'a.example.com'\n'x-key', '{PLANT}'\n",
    "log of Envoy, in JSON": json.dumps({"event": f"headers:\n'set-cookie', '_pomerium={PLANT}; Path=/'\n"}),
    "header of Envoy": json.dumps({"header": {"key": "x-api-key", "value": PLANT}}),
    "secret of Envoy": json.dumps({"private_key": {"inline_string": PLANT}, "certificate_chain": {}}),
    "page of Envoy": json.dumps({"direct_response": {"status": 200, "body": {"inline_string": PLANT}}}),
    "named": json.dumps({"client_secret": PLANT, "tokens": [PLANT], "api_key": PLANT, "Set-Cookie": PLANT}),
}


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES.keys())
def test_what_looks_like_a_secret_is_blanked_though_nobody_said_so(text: str) -> None:
    blank = Redaction()

    found = [blank.json_text(text), blank.lines(text)] if text.startswith("{") else [blank.text(text)]
    for each in found:
        assert PLANT not in each
        assert KEY.splitlines()[1] not in each
        assert "***" in each


def test_what_is_no_secret_stays() -> None:
    said = {"token": {"fingerprint": "1a2b3c4d", "source": "POMERIUM_ZERO_TOKEN_FILE"}, "digest": "abc", "n": 7}
    text = "no cluster token: set POMERIUM_ZERO_TOKEN; see https://docs.example.com/a and /var/lib/pomerium-agent"

    assert json.loads(Redaction().json(said)) == said
    assert Redaction().text(text) == text


@given(secret=st.text(min_size=6, max_size=60).filter(lambda text: text.strip() == text), around=st.text(max_size=20))
def test_a_secret_that_is_known_is_found_in_every_form(secret: str, around: str) -> None:
    """Hostile input: whatever a secret is made of."""
    blank = Redaction([secret])
    encoded = secret.encode(errors="replace")
    forms = (secret, json.dumps(secret), quote(secret, errors="replace"), base64.b64encode(encoded).decode())

    for form in forms:
        assert secret not in blank.text(around + form)
        assert secret not in blank.lines(around + form)
    assert secret not in json.dumps(blank.json({"a": [secret], secret: secret}), ensure_ascii=False).replace("***", "")


@given(st.text())
def test_redaction_never_fails_and_what_was_blanked_stays_so(text: str) -> None:
    blank = Redaction(["known-secret"])

    once = blank.text(text)

    assert blank.leaks("a known-secret")
    assert not blank.leaks(blank.text(f"{text}known-secret"))
    assert isinstance(blank.json_text(text), str)
    assert blank.text(once) == once


def test_every_part_that_is_missing_says_why() -> None:
    packed = pack(Evidence(at=AT, status=Missing("no replica answers")))

    listed = packed[0].content.decode() if packed[0].content else ""
    assert packed[0].name == CONTENTS
    for part in PARTS:
        assert part.name in listed
    assert "MISSING: no replica answers" in listed


# --- the verb, where no replica runs ---------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    for name in ("run", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "POMERIUM_ZERO_TOKEN": f"{PLANT}-token",
        "HTTPS_PROXY": f"http://user:{PLANT}-proxy@proxy.invalid:3128",
        "CLUSTER_API_ENDPOINT": "http://127.0.0.1:9/cluster/v1",
        "CONNECT_SERVER_ENDPOINT": "http://127.0.0.1:9",
    }


def run(here: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pomerium_agent", "support", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=here, timeout=50, stdin=subprocess.DEVNULL, cwd=here["HOME"]
    )


def test_where_nobody_can_be_asked_nothing_is_written(here: dict[str, str]) -> None:
    done = run(here)

    assert done.returncode == 2
    assert "write the bundle with --yes" in done.stderr
    assert not list(Path(here["HOME"]).glob("*.tar.gz"))


def test_a_replica_that_is_down_has_a_bundle_too(here: dict[str, str]) -> None:
    log, output = Path(here["HOME"]) / "agent.log", Path(here["HOME"]) / "bundle.tar.gz"
    log.write_text(f'{{"event": "started", "said": "{PLANT}-token"}}\nand a plain line\n')

    done = run(here, "--yes", "-o", str(output), "--log-file", str(log))

    assert done.returncode == 0, done.stderr
    assert f"{output}: " in done.stdout
    assert output.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in output.parent.iterdir() if "bundle" in each.name] == ["bundle.tar.gz"]
    found = unpacked(output)
    assert {"versions.json", "settings.json", "doctor.json", "log.jsonl", CONTENTS} == found.keys()
    assert "MISSING: no replica runs on this machine" in found[CONTENTS]
    assert "and a plain line" in found["log.jsonl"]
    assert "proxy.invalid" in found["settings.json"]
    assert "nobody listens on 127.0.0.1:9" in found["doctor.json"]
    assert PLANT not in "".join((*found.values(), done.stdout, done.stderr))


def test_the_list_can_be_had_without_a_bundle(here: dict[str, str]) -> None:
    done = run(here, "--json", "--no-logs")

    said = json.loads(done.stdout)
    parts = {each["name"]: each for each in said["parts"]}
    assert (done.returncode, said["output"]) == (0, None)
    assert parts["versions.json"]["bytes"] > 0
    assert parts["log.jsonl"]["missing"] == "left out, as asked"
    assert not list(Path(here["HOME"]).glob("*.tar.gz"))


@pytest.mark.parametrize(("answer", "written"), [("n", 0), ("y", 1)])
def test_it_shows_what_is_inside_and_asks(here: dict[str, str], answer: str, written: int) -> None:
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "pomerium_agent", "support", "--no-logs"]
    os.write(keyboard, f"{answer}\n".encode())

    done = subprocess.run(
        command, stdin=terminal, capture_output=True, text=True, env=here, timeout=50, cwd=here["HOME"]
    )
    os.close(keyboard)
    os.close(terminal)

    assert "versions of agent, Envoy, Python, system and kernel" in done.stdout
    assert "Secrets are blanked. People are left out" in done.stdout
    assert done.returncode == (0 if written else 1), done.stderr
    assert len(list(Path(here["HOME"]).glob("pomerium-agent-support-*.tar.gz"))) == written


def unpacked(file: Path) -> dict[str, str]:
    """Its files and their content, without the folder."""
    with tarfile.open(file) as tar:
        entries = {entry.name: tar.extractfile(entry) for entry in tar.getmembers()}
        return {name.partition("/")[2]: each.read().decode() for name, each in entries.items() if each is not None}


def test_a_header_for_the_collector_is_found_as_it_is_sent() -> None:
    """Routes 7.7: values of `otel_exporter_otlp_headers` are percent-encoded, and Envoy is given what they mean."""
    redaction = Redaction(["x-api-key=s3same%2Bopen"])

    assert redaction.text("refused: s3same+open, s3same%2Bopen") == "refused: ***, ***"
