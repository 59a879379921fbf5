"""Beside a replica that runs: no secret is to be seen anywhere, and what an operator asks of it is answered.

Everything that may be secret is planted once: token, keys, headers, passwords, a session; then there is traffic at
level debug, a login, a refusal; then everything is read that others could read, or be sent.
"""

import asyncio
import base64
import json
import os
import pty
import re
import select
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from pomerium_agent.cli.status import UnixConnection
from pomerium_agent.demo.playground import ReplicaAt, free_port
from pomerium_agent.demo.postgres import find_programs, run_postgres
from pomerium_agent.envoy.admin import WRITE_SECRETS
from pomerium_agent.errors import SettingsError
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.secrets import derive_secrets
from tests.e2e.world import CLUSTER, World, eventually, open_world
from tests.fakes.authority import issue_for_loopback
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
    needs_oidc_provider,
]

HEADER, RESPONSE, ROBOT, BASIC, OTLP, PROVIDER = (
    f"PLANTED-{name}-0815" for name in ("header", "response", "kubernetes", "metrics", "otlp", "provider")
)
DATABASE = "PLANTED-database/p@ss:0815"
QUERY, BEARER = "PLANTED-query-0815", "PLANTED-bearer-0815"
SETTINGS = f"""
log_level: debug
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
certificates:
  - cert: CHAIN
    key: KEY
signing_key: SIGNING
metrics_basic_auth: {base64.b64encode(f"user:{BASIC}".encode()).decode()}
otel_traces_exporter: otlp
otel_exporter_otlp_endpoint: http://127.0.0.1:1
otel_exporter_otlp_headers: ["authorization=Bearer {OTLP}"]
set_response_headers: {{x-planted: {RESPONSE}}}
"""
PUBLIC = f"""
from: https://hello.DOMAIN
to: UPSTREAM
allow_public_unauthenticated_access: true
set_request_headers: {{x-api-key: {HEADER}}}
"""
ANYBODY = """
from: https://anybody.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
NOBODY = """
from: https://nobody.DOMAIN
to: UPSTREAM
policy: {allow: {and: [{email: {is: grace@example.com}}]}}
"""
ROBOTS = f"""
from: https://robots.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
kubernetes_service_account_token: {ROBOT}
"""
FAULTY = """
name: faulty
from: https://faulty.DOMAIN
to: UPSTREAM
regex: '^/(?!a)'
allow_public_unauthenticated_access: true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    world: World
    replica: ReplicaAt
    environment: Mapping[str, str]  # of the replica, with the file of its token
    planted: Mapping[str, str]
    with_database: bool

    async def typed(self, *words: str, code: int = 0) -> str:
        """A verb as a person types it beside the replica; what it printed."""
        command = (sys.executable, "-P", "-m", "pomerium_agent", *words)
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(self.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
        assert process.returncode == code, said.decode()
        return said.decode()

    def clean(self, what: str, content: str) -> None:
        """Fails, naming the place and the secret, but not showing either's content."""
        for name, secret in self.planted.items():
            assert secret not in content, f"{name} is in {what}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    """One replica, everything planted, and all of it used once."""
    port = free_port()
    with ExitStack() as stack:
        try:
            find_programs()
            database = stack.enter_context(run_postgres(password=DATABASE)).url()
        except SettingsError:
            database = ""
        async with open_world() as world:
            back = f"https://authenticate.{world.domain}:{port}/oauth2/callback"
            client = OidcClient(redirect_uris=(back,), secret=PROVIDER)
            async with run_oidc_provider([client]) as provider:
                planted = {"token": world.cluster.token, **await plant(world, provider.issuer, port, database)}
                token_file = world.cluster.directory / "token"
                token_file.touch(mode=0o600)
                token_file.write_text(world.cluster.token)
                async with world.cluster.replica(port=port, token_file=token_file) as replica:
                    environ = proc(replica.running.pid, "environ").rstrip("\0").split("\0")
                    environment = dict(line.split("=", 1) for line in environ)
                    planted |= await shared(environment, world.cluster.token)
                    planted |= await visit(world, replica)
                    yield Scene(
                        world=world,
                        replica=replica,
                        environment=environment,
                        planted=planted,
                        with_database=bool(database),
                    )


async def plant(world: World, issuer: str, port: int, database: str) -> dict[str, str]:
    """Give the console everything; the secrets by name."""
    if database:
        await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, database)
    certificate, signing = issue_for_loopback(), issue_for_loopback()
    encoded = base64.b64encode(signing.key).decode()
    filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port)).replace("ISSUER", issuer)
    filled = filled.replace("SECRET", json.dumps(PROVIDER)).replace("SIGNING", encoded)
    for name, content in (("CHAIN", certificate.certificate), ("KEY", certificate.key)):
        file = world.cluster.directory / f"{name.lower()}.pem"
        file.write_bytes(content)
        filled = filled.replace(name, str(file))
    routes = (PUBLIC, ANYBODY, NOBODY, ROBOTS, FAULTY)
    await world.apply(*routes, settings=filled, options=("--allow-faulty",))
    made = await world.cluster.verb("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
    return {
        "the header to the upstream": HEADER,
        "the header to visitors": RESPONSE,
        "the token for Kubernetes": ROBOT,
        "the password of the metrics": BASIC,
        "the password of the metrics, encoded": base64.b64encode(f"user:{BASIC}".encode()).decode(),
        "the header of the traces": OTLP,
        "the client secret": PROVIDER,
        "the password of the database": DATABASE,
        "the password of the database, quoted": DATABASE.replace("/", "%2F").replace("@", "%40").replace(":", "%3A"),
        "the key of the certificate": certificate.key.decode().splitlines()[1],
        "the key of the certificate, encoded": base64.b64encode(certificate.key).decode(),
        "the signing key": signing.key.decode().splitlines()[1],
        "the signing key, encoded": encoded,
        "the token of a service account": next(iter(json.loads(made)["headers"].values())).split()[-1],
    }


async def shared(environment: Mapping[str, str], token: str) -> dict[str, str]:
    """What replicas have in common, from where this one keeps it."""
    path = Path(environment["XDG_CACHE_HOME"]) / "pomerium" / "bootstrap.dat"
    found = await BootstrapFile(path, derive_secrets(token).file_key).load()
    assert found is not None
    return {"the shared secret": base64.b64encode(found.shared_secret).decode()}


async def visit(world: World, replica: ReplicaAt) -> dict[str, str]:
    """Every kind of request; the secrets that it brought along."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(connector=world.client.connector, connector_owner=False, cookie_jar=jar) as http:
        browser, wanted = Browser(http), world.url(replica, "anybody", "/deep")

        async def login_is_served() -> bool:
            async with http.get(wanted, headers={"accept": "text/html"}, allow_redirects=False) as answer:
                return answer.status == 302

        await eventually("logins begin", login_is_served)
        async with http.get(wanted, headers={"accept": "text/html"}, allow_redirects=False) as answer:
            await browser.log_in(answer.headers["location"], ADA, until=wanted)
        brought = {"authorization": f"Bearer {BEARER}"}
        for host, headers, status in (
            ("anybody", {}, 200),
            ("nobody", {}, 403),
            ("hello", brought, 200),
            ("nobody", brought, 403),
        ):
            if host == "nobody" and headers:
                continue  # an unknown bearer is a question to the provider, which is not what this is about
            async with http.get(world.url(replica, host, f"/x?code={QUERY}"), headers=headers) as answer:
                assert answer.status == status, (host, await answer.text())
        cookies = [cookie.value for cookie in jar if cookie["domain"].startswith("anybody.")]
        codes = re.findall(r"[?&]code=([^&#]+)", " ".join(browser.visited))
    assert cookies
    assert codes
    return {
        **{f"cookie {at}": value for at, value in enumerate(cookies) if len(value) > 20},
        **{f"code {at}": value for at, value in enumerate(codes)},
        "the bearer of a visitor": BEARER,
    }


# --- no secret is seen ------------------------------------------------------------------------------


async def test_processes_show_no_secret(scene: Scene) -> None:
    """With a token file: neither command lines nor environments, of the keeper, the agent and Envoy."""
    for name, pid in (await scene.replica.pids()).items():
        for file in ("cmdline", "environ"):
            scene.clean(f"{file} of {name}", proc(pid, file))


async def test_a_token_in_the_environment_is_not_handed_to_envoy(scene: Scene) -> None:
    """Where it is given so, the keeper and the agent have it there; nobody else, and no command line."""
    async with scene.world.cluster.replica("by-environment", wait=False) as replica:

        async def has_envoy() -> bool:
            return bool((await replica.pids())["envoy"])

        await eventually("its envoy runs", has_envoy)
        pids, token = await replica.pids(), scene.world.cluster.token
        environs = {name: proc(pid, "environ") for name, pid in pids.items()}
        lines = "".join(proc(pid, "cmdline") for pid in pids.values())

    assert {name for name, environ in environs.items() if token in environ} == {"keeper", "agent"}
    assert token not in lines
    assert token not in replica.running.log.read_text()


async def test_the_log_at_level_debug_shows_no_secret(scene: Scene) -> None:
    log = scene.replica.running.log.read_text()

    assert '"level": "debug"' in log or '"level":"debug"' in log
    assert "authorize check" in log
    scene.clean("the log", log)


async def test_files_that_others_may_read_show_no_secret(scene: Scene) -> None:
    """Nothing of a replica is readable by others; what its owner may read, and is no sealed file, is clean as well."""
    for path in files_of(scene.replica.directory):
        mode = path.lstat().st_mode
        if mode & 0o044:
            assert path.parent.stat().st_mode & 0o077 == 0, f"others may read {path}"
        scene.clean(str(path), path.read_bytes().decode(errors="replace"))


async def test_the_support_bundle_shows_no_secret_and_no_person(scene: Scene) -> None:
    output = scene.world.cluster.directory / "bundle.tar.gz"

    said = await scene.typed("support", "--yes", "-o", str(output), "--log-file", str(scene.replica.running.log))

    found = unpacked(output)
    assert output.stat().st_mode & 0o777 == 0o600
    assert "MISSING" not in said
    assert {"config.json", "denials.json", "log.jsonl", "envoy/config_dump.json", "envoy/stats.txt"} <= found.keys()
    for name, content in found.items():
        scene.clean(name, content)
        assert QUERY not in content, name
        assert ADA.email not in content, name
    scene.clean("what it prints", said)
    routes = json.loads(found["config.json"])["routes"]
    assert any(
        route["set_request_headers"] == {"x-api-key": "***"} for route in routes if "set_request_headers" in route
    )
    dump = json.loads(found["envoy/config_dump.json"])["configs"]
    assert any("RoutesConfigDump" in each["@type"] for each in dump)
    assert "x-api-key" in found["envoy/config_dump.json"]
    denied = json.loads(found["denials.json"])["latest"]
    assert ("nobody", "deny", 403) in [
        (each["host"].partition(".")[0], each["kind"], each["status"]) for each in denied
    ]
    assert any(fault["field"] == "regex" for fault in json.loads(found["faults.json"])["faults"])
    assert json.loads(found["settings.json"])["token_source"] == "POMERIUM_ZERO_TOKEN_FILE"


async def test_a_bundle_of_a_replica_whose_agent_is_gone_tells_what_was_last_good(scene: Scene) -> None:
    """Its files are read with its token; no secret of theirs is shown either."""
    output = scene.world.cluster.directory / "down.tar.gz"
    nowhere = scene.world.cluster.directory / "nowhere.sock"

    said = await scene.typed("support", "--yes", "-o", str(output), "--socket", str(nowhere), "--no-logs")

    found = unpacked(output)
    assert f"MISSING: no replica answers on {nowhere}" in said
    assert json.loads(found["config.json"])["from"].startswith("the last known good one, of ")
    for name, content in found.items():
        scene.clean(name, content)


async def test_what_verbs_print_shows_no_secret(scene: Scene) -> None:
    for words in (
        ("status", "--json"),
        ("status",),
        ("telemetry", "show"),
        ("telemetry", "show", "--json"),
        ("sessions", "list", "--json"),
        ("doctor", "--json"),
    ):
        scene.clean(" ".join(words), await scene.typed(*words))


# --- what an operator asks is answered ---------------------------------------------------------------


async def test_doctor_finds_nothing_wrong_beside_a_replica_that_runs(scene: Scene) -> None:
    said = json.loads(await scene.typed("doctor", "--json"))

    checks = {each["check"]: each for each in said["findings"]}
    assert said["healthy"]
    assert "one runs here already" in checks["replica"]["found"]
    assert "is what the replica here listens on" in checks["ADDRESS"]["found"]
    assert checks["token file"]["state"] == "ok"
    assert checks["token accepted"]["found"] == "the control plane takes it"
    assert checks["identity provider"]["found"].endswith(" answers")
    assert checks["database"]["found"] == (
        "PostgreSQL answers" if scene.with_database else "none is needed; records are kept by the replica itself"
    )


async def test_status_fits_on_one_screen_and_has_everything(scene: Scene) -> None:
    said = await scene.typed("status")

    lines = dict(line.split(None, 1) for line in said.splitlines())
    assert re.search(r"^config +\w+, \d+ routes, in force since \S+ \(\d+ \w+ ago\)$", said, re.MULTILINE), said
    assert re.fullmatch(r"live, \d+ requests, \d+\.\d a second|.*, \d+ requests, \d+\.\d a second", lines["envoy"])
    assert lines["sessions"] == "1"
    assert lines["console"] == "connected"
    assert re.search(r"^certificate +localhost, 127\.0\.0\.1: (ONLY )?\d+ days left$", said, re.MULTILINE), said
    assert re.search(r'^FAULT +route "faulty".*: regex: .* \[[0-9a-f]{8}\]$', said, re.MULTILINE), said
    assert lines["lease"] == "active"
    assert len(said.splitlines()) <= 40


async def test_status_as_json_has_the_same_for_programs(scene: Scene) -> None:
    said = json.loads(await scene.typed("status", "--json"))

    assert said["config"]["in_force"] == said["config"]["offered"] != ""
    assert said["in_force_since"]
    assert said["requests"] >= 1
    assert said["sessions"] == 1
    assert {"zero.lease", "storage.backend", "envoy.server"} <= said["statuses"].keys()


async def test_status_that_watches_shows_itself_again(scene: Scene) -> None:
    """On a terminal, which it clears each time."""
    said = await asyncio.to_thread(watched, scene)

    assert said.count("\033[H\033[2J") == 2
    assert said.count("sessions      1") == 2


async def test_log_levels_change_at_once_and_are_put_back(scene: Scene) -> None:
    async def log_after(path: str) -> str:
        """The log once Envoy has written of this request: what the agent has to say of it is there by then."""
        answer = await scene.world.get(scene.replica, "nobody", path, headers={"accept": "application/json"})
        assert answer.status == 401

        async def is_logged() -> bool:
            return f'"path":"{path}"' in scene.replica.running.log.read_text().replace('": "', '":"')

        await eventually("the request is logged", is_logged)
        return scene.replica.running.log.read_text()

    quiet = await scene.typed("log-level", "warn", "--proxy", "debug")
    levels = await asyncio.to_thread(envoy_levels, scene.replica)
    without = checks_of(await log_after("/quiet"), "/quiet")
    loud = await scene.typed("log-level", "debug", "--proxy", "info")
    restored = await asyncio.to_thread(envoy_levels, scene.replica)
    again = checks_of(await log_after("/loud"), "/loud")

    assert quiet.splitlines() == ["agent logs warn", "proxy logs debug"]
    assert loud.splitlines() == ["agent logs debug", "proxy logs info"]
    assert levels == {**dict.fromkeys(levels, "debug"), **dict.fromkeys(WRITE_SECRETS & levels.keys(), "info")}
    assert set(restored.values()) == {"warning"}  # Envoy is told one less: its info is about itself
    assert (without, len(again)) == ([], 1)


async def test_telemetry_shows_what_was_sent(scene: Scene) -> None:
    said = await scene.typed("telemetry", "show")

    assert re.search(r"^  \S+  envoy\.server: running", said, re.MULTILINE), said


# --- looking -----------------------------------------------------------------------------------------


def proc(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")


def files_of(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def unpacked(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        opened = {entry.name.partition("/")[2]: tar.extractfile(entry) for entry in tar.getmembers()}
        return {name: each.read().decode() for name, each in opened.items() if each is not None}


def checks_of(log: str, path: str) -> list[dict[str, Any]]:
    """The lines of the authorize log about a path."""
    found = [json.loads(line) for line in log.splitlines() if line.startswith("{") and "authorize check" in line]
    return [line for line in found if line.get("path") == path]


def envoy_levels(replica: ReplicaAt) -> dict[str, str]:
    """Logger → level."""
    connection = UnixConnection(replica.directory / "envoy-admin.sock")
    connection.request("POST", "/logging")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return dict(line.strip().split(": ") for line in lines if line.startswith("  ") and ": " in line)


def watched(scene: Scene) -> str:
    """Two screens of `status --watch` on a terminal, then it is ended."""
    screen, terminal = pty.openpty()
    command = (sys.executable, "-P", "-m", "pomerium_agent", "status", "--watch")
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=dict(scene.environment))
    os.close(terminal)
    said = ""
    try:
        while said.count("sessions      1") < 2:
            assert select.select([screen], [], [], 30)[0], said
            said += os.read(screen, 65536).decode()
    finally:
        process.kill()
        process.wait(10)
        os.close(screen)
    return said
