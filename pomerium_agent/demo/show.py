"""The demo from start to end: bring everything up, say what to try, keep running, leave nothing behind."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from pomerium_agent.demo.playground import Cluster, ReplicaAt, free_port, open_cluster, visitor
from pomerium_agent.demo.postgres import run_postgres
from pomerium_agent.demo.provider import DevClient, DevUser, serve_dev_provider
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Secret

CLUSTER = "demo"
# Who can log in, and whether the route for engineers lets them in.
PEOPLE = (
    (DevUser(email="ada@example.com", password=Secret("ada-demo"), name="Ada Lovelace", groups=("engineers",)), True),
    (DevUser(email="mallory@example.com", password=Secret("mallory-demo"), name="Mallory"), False),
)
ROBOT = "demo-robot"
ANSWER_SECONDS = 30.0


async def run_demo(
    *, port: int, replicas: int, postgres: bool = False, ready_file: Path | None, exit_after_ready: bool
) -> None:
    """Run it. Raises SettingsError when something does not come up, with the end of its log."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    # Short, since the paths of unix sockets may not be longer than 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="pa-demo-"))
    try:
        async with asyncio.TaskGroup() as group:
            show = group.create_task(
                _show(directory, port, replicas, ready_file, exit_after_ready, stop, postgres=postgres)
            )
            stopped = group.create_task(stop.wait())
            await asyncio.wait((show, stopped), return_when=asyncio.FIRST_COMPLETED)
            show.cancel()
            stopped.cancel()
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        _say("stopped; nothing was left behind")


async def _show(
    directory: Path,
    port: int,
    replicas: int,
    ready_file: Path | None,
    exit_after_ready: bool,
    stop: asyncio.Event,
    *,
    postgres: bool,
) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serve_upstream())
        _say("starting the console …")
        cluster = await stack.enter_async_context(open_cluster(directory, CLUSTER))
        ports = _ports(port, replicas)
        if postgres:
            _say("starting PostgreSQL …")
            await _keep_in(cluster, await stack.enter_async_context(_database()))
        login = f"https://authenticate.{cluster.domain}:{ports[0]}"
        client = DevClient(
            id="pomerium-agent-demo",
            secret=Secret(secrets.token_urlsafe(24)),
            redirect_uris=(f"{login}/oauth2/callback",),
            post_logout_redirect_uris=(f"{login}/.pomerium/signed_out",),
        )
        provider = await stack.enter_async_context(
            serve_dev_provider(users=[user for user, _ in PEOPLE], clients=[client])
        )
        await cluster.apply(sample_config(cluster.domain, upstream.port, ports[0], provider.issuer, client))
        upstream.ca_file, upstream.entrances = cluster.ca_file, tuple(ports)
        robot = await _create_robot(cluster)
        running = []
        for number, taken in enumerate(ports, start=1):
            _say(f"starting replica {number} of {replicas} (keeper, agent, envoy) …")
            running.append(await stack.enter_async_context(cluster.replica(f"replica-{number}", port=taken)))
        for replica in running:
            await _answers(f"https://hello.{cluster.domain}:{replica.port}/", cluster.ca_file)
        page = await _page(cluster, running, robot)
        ready = {
            "token": cluster.token,
            "cluster_api": cluster.console.cluster_api,
            "connect": cluster.console.connect,
            "console_url": cluster.console.cluster_api.removesuffix("/cluster/v1"),
            "console_pid": cluster.console.running.pid,
            "address": running[0].address,
            "ca_file": str(cluster.ca_file),
            "config_file": str(cluster.config_file),
            "cluster": CLUSTER,
            "users": [
                {"email": user.email, "password": str(user.password), "allowed": allowed} for user, allowed in PEOPLE
            ],
            "login_url": _url(cluster, "team", ports[0]),
            "routes": [{"from": source, "curl": line} for source, line, _ in curls(cluster, running[0].port)],
            "service_account": {
                **{key: robot[key] for key in ("name", "id", "user_id", "jwt", "headers")},
                "curls": [
                    {"from": source, "curl": line} for source, line, _ in robot_curls(cluster, running[0].port, robot)
                ],
            },
            "agents": [await _agent(replica) for replica in running],
            "state_dir": str(directory),
        }
        print(page, flush=True)
        if ready_file is not None:
            _write_private(ready_file, json.dumps(ready, indent=2) + "\n")
        if not exit_after_ready:
            await stop.wait()
        _say("stopping …")


def _ports(first: int, count: int) -> list[int]:
    """A port for each replica: `first` and those after it where they are free, any free ones elsewhere."""
    wanted = range(first, first + count) if first else [0] * count
    return [each if each and _is_free(each) else free_port() for each in wanted]


def sample_config(domain: str, upstream: int, port: int, issuer: str, client: DevClient) -> str:
    """What the demo applies, in the format that `console apply` takes."""
    return f"""\
# Edit this file and apply it again: the change is live in under a second.

# People log in on pages of the replica itself, with the identity provider that the demo brings.
authenticate_service_url: https://authenticate.{domain}:{port}
idp_provider: oidc
idp_provider_url: {issuer}
idp_client_id: {client.id}
idp_client_secret: {client.secret}

# Upstreams are told who it is, in headers and in a signed assertion.
pass_identity_headers: true
jwt_claims_headers: [email]

routes:
  - name: hello
    from: https://hello.{domain}
    to: http://127.0.0.1:{upstream}
    allow_public_unauthenticated_access: true
    set_request_headers:
      x-from-the-proxy: hello upstream

  - name: status
    from: https://status.{domain}
    allow_public_unauthenticated_access: true
    response:
      status: 200
      body: "all is well\\n"

  - name: old
    from: https://old.{domain}
    allow_public_unauthenticated_access: true
    redirect:
      host_redirect: hello.{domain}
      port_redirect: {port}
      response_code: 302

  - name: private
    from: https://private.{domain}
    to: http://127.0.0.1:{upstream}
    allow_any_authenticated_user: true

  - name: team
    description: For engineers only
    from: https://team.{domain}
    to: http://127.0.0.1:{upstream}
    show_error_details: true
    policy:
      allow:
        or:
          - groups:
              has: engineers
          - claim/groups: engineers
"""


@asynccontextmanager
async def _database() -> AsyncIterator[str]:
    """A PostgreSQL of the demo's own; yields how to connect to it."""
    manager = run_postgres(password=secrets.token_urlsafe(16))
    server = await asyncio.to_thread(manager.__enter__)
    try:
        yield server.url()
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def _keep_in(cluster: Cluster, connection: str) -> None:
    """Tell the console where the replicas keep their records."""
    file = cluster.directory / "storage"
    await asyncio.to_thread(_write_private, file, connection)
    await cluster.verb("console", "cluster", "set-storage", CLUSTER, "--from-file", str(file))


async def _create_robot(cluster: Cluster) -> Mapping[str, object]:
    """A service account, as a person would make it: what `--json` says of it, its token included."""
    created = json.loads(
        await cluster.verb(
            "console",
            "service-account",
            "create",
            ROBOT,
            "--cluster",
            CLUSTER,
            "--description",
            "calls the routes of the demo",
            "--json",
        )
    )
    assert isinstance(created, dict)  # noqa: S101  # our own verb
    return created


def curls(cluster: Cluster, port: int) -> list[tuple[str, str, str]]:
    """(from, a curl line that works as pasted, what it shows) for each route, as a stranger."""
    shows = {
        "hello": "200 from the upstream, with the headers it saw",
        "status": "200, answered by Envoy itself",
        "old": "302 to hello",
        "private": "not public: a stranger does not get in",
        "team": "for one group only: a stranger does not get in",
    }
    return [(_origin(cluster, host), _curl(cluster, host, port), text) for host, text in shows.items()]


def robot_curls(cluster: Cluster, port: int, robot: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """The same for the routes that ask who calls, as the service account."""
    header = f"-H 'Authorization: Bearer Pomerium-{robot['jwt']}'"
    shows = {
        "private": f"200 with the token of the service account {ROBOT}",
        "team": f"403: {ROBOT} is not in the group engineers",
    }
    return [(_origin(cluster, host), _curl(cluster, host, port, header), text) for host, text in shows.items()]


def _origin(cluster: Cluster, host: str) -> str:
    return f"https://{host}.{cluster.domain}"


def _url(cluster: Cluster, host: str, port: int) -> str:
    return f"https://{host}.{cluster.domain}:{port}/"


def _curl(cluster: Cluster, host: str, port: int, *options: str) -> str:
    name = f"{host}.{cluster.domain}"
    trust = f"--cacert {cluster.ca_file} --resolve {name}:{port}:127.0.0.1"
    return " ".join(("curl", trust, *options, f"https://{name}:{port}/"))


async def _page(cluster: Cluster, running: list[ReplicaAt], robot: Mapping[str, object]) -> str:
    program = f"{Path(sys.executable).parent / 'pomerium-agent'}"
    data_dir = cluster.console.data_dir
    lines = ["", "  Everything answers. Try:", ""]
    for _, line, shows in (*curls(cluster, running[0].port), *robot_curls(cluster, running[0].port, robot)):
        lines += [f"  # {shows}", f"  {line}", ""]
    (ada, _), (mallory, _) = PEOPLE
    lines += [
        "  # in a browser (it does not know our certificate authority, so it warns; go on)",
        f"  {_url(cluster, 'team', running[0].port)}",
        f"    {ada.email}, password {ada.password}: is let in and greeted by name",
        f"    {mallory.email}, password {mallory.password}: sees why not",
        "",
        "  # who is signed in, and how to end that",
        f"  {program} sessions list --socket {running[0].control_socket}",
        "",
        "  # change a route, and see it live",
        f"  $EDITOR {cluster.config_file}",
        f"  {program} console apply -f {cluster.config_file} --cluster {CLUSTER} --data-dir {data_dir}",
        "",
        "  # why was that denied? (add -i to a curl line to see its x-request-id)",
        f"  {program} explain REQUEST_ID --socket {running[0].control_socket}",
        "",
        "  # who runs which version, and what is wrong with it",
        f"  {program} console status --data-dir {data_dir}",
        f"  {program} status --socket {running[0].control_socket}",
        "",
    ]
    for replica in running:
        pids = await replica.pids()
        lines.append(
            f"  {replica.running.name}: https://{replica.address}  "
            f"keeper {pids['keeper']}, agent {pids['agent']}, envoy {pids['envoy']}"
        )
    lines += [
        "",
        f"  The CA is {cluster.ca_file}; logs and state are in {cluster.directory}.",
        "  Ctrl-C stops everything.",
        "",
    ]
    return "\n".join(lines)


async def _agent(replica: ReplicaAt) -> Mapping[str, object]:
    pids = await replica.pids()
    return {
        "keeper_pid": pids["keeper"],
        "agent_pid": pids["agent"],
        "envoy_pid": pids["envoy"],
        "address": replica.address,
        "control_socket": str(replica.control_socket),
    }


async def _answers(url: str, ca_file: Path) -> None:
    """Wait until `url` answers 200."""
    last = "nothing answered"
    try:
        async with asyncio.timeout(ANSWER_SECONDS), visitor(ca_file) as session:
            while True:
                try:
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                        last = f"status {response.status}"
                except aiohttp.ClientError as error:
                    last = str(error)
                await asyncio.sleep(0.1)  # another process: there is nothing to be woken by
    except TimeoutError as error:
        raise SettingsError(f"{url} does not answer: {last}") from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_private(path: Path, text: str) -> None:
    """It holds the token: for its owner only, and never half written."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)
