"""install.sh and the service, for real: a bare Debian, systemd, a console and an upstream on its loopback."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.machine import Machine, Ran, another_release, booted, missing, wheelhouse

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.timeout(900),
]

HOST = "hello.localhost.pomerium.io"
PLANTED = "PLANTED-SECRET-4711"  # in a setting of a route, which is not ours to show either
CONFIG = f"""
routes:
  - from: https://{HOST}
    to: http://127.0.0.1:9000
    allow_public_unauthenticated_access: true
    set_request_headers:
      x-api-key: {PLANTED}
"""
# The console and the upstream, from the same wheels, in an environment of their own.
PREPARE = """
set -e
python3 -m venv --without-pip /srv/console
pip=$(echo /srv/wheels/pip-*.whl)
/srv/console/bin/python $pip/pip install -q --no-index --find-links /srv/wheels \\
    --root-user-action=ignore pomerium-agent
agent=/srv/console/bin/pomerium-agent
mkdir /srv/www && echo hello-from-upstream >/srv/www/index.html
$agent console cluster create demo --json >/srv/cluster.json
$agent console apply --cluster demo --file /srv/config.yaml
systemd-run -q --unit console -E POMERIUM_CONSOLE_DATA=$POMERIUM_CONSOLE_DATA $agent console serve
systemd-run -q --unit upstream python3 -m http.server -b 127.0.0.1 -d /srv/www 9000
"""
VISIT = f"""
import http.client, socket, ssl
tls = ssl._create_unverified_context().wrap_socket(
    socket.create_connection(("127.0.0.1", 443), 5), server_hostname="{HOST}")
tls.sendall(b"GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\nConnection: close\\r\\n\\r\\n")
answer = http.client.HTTPResponse(tls)
answer.begin()
print(answer.status, answer.read().decode().strip())
"""
# What a person would look at for leaks: command lines and environments of all, the journal, the unit, what others
# may read of ours.
LEAKS = """
for process in /proc/[0-9]*; do
    [ "${process#/proc/}" = $$ ] || cat $process/cmdline $process/environ 2>/dev/null
done | tr '\\0' '\\n'
journalctl --no-pager -o export
systemctl cat pomerium-agent
systemctl show pomerium-agent
cat /etc/pomerium-agent/agent.env
find /opt/pomerium-agent /var/lib/pomerium-agent/ -type f ! -name '*.pyc' ! -name 'envoy' -size -2M -exec cat {} +
find /run /etc /var -xdev -type f -perm /044 -size -2M -exec cat {} + 2>/dev/null
"""
FILES = """
find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /srv \\) -prune \\
    -o -printf '%p %m %u %g %l\\n' | sort
"""
MUTE = """'An agent that never becomes ready.'

import time


def agent() -> None:
    time.sleep(3600)
"""
STATE = "systemctl show -p ActiveState -p NRestarts -p ExecMainStatus pomerium-agent | sort"


@dataclass(frozen=True, slots=True)
class Scene:
    """The machine, with what an administrator has been given."""

    machine: Machine
    token: str
    environ: dict[str, str]
    houses: Path

    def install_sh(self, *arguments: str, wheels: str = "", token: str | None = None) -> Ran:
        """The one-liner."""
        environ = {**self.environ, "POMERIUM_AGENT_FROM": f"/srv/wheels{wheels}"}
        if token is not None:
            environ["POMERIUM_ZERO_TOKEN"] = token
        return self.machine.run(f"cat /srv/install.sh | bash -s -- {' '.join(arguments)}", environ)

    def visit(self) -> str:
        return self.machine.run(f"python3 -c '{VISIT}'").stdout.strip()

    def main_pid(self) -> str:
        return self.machine.says("systemctl show -P MainPID pomerium-agent")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Booted once, with a console that has one public route to show."""
    directory = tmp_path_factory.mktemp("system")
    wheels = wheelhouse(directory)
    another_release(wheels, "next", "99.0.0")
    crashes = "raise RuntimeError('a release that is broken')\n"
    another_release(wheels, "crashes", "99.0.1", {"pomerium_agent/keeper/keeper.py": crashes})
    another_release(wheels, "mute", "99.0.2", {"pomerium_agent/cli/agent.py": MUTE})
    with booted(directory, wheels) as machine:
        (machine.root / "srv" / "config.yaml").write_text(CONFIG)
        machine.says(PREPARE, {"POMERIUM_CONSOLE_DATA": "/srv/data"})
        cluster = json.loads(machine.says("cat /srv/cluster.json"))
        names = ("CLUSTER_API_ENDPOINT", "CONNECT_SERVER_ENDPOINT", "POMERIUM_OTEL_ENDPOINT")
        yield Scene(machine, cluster["token"], {name: cluster[name] for name in names}, wheels)


@pytest.fixture
def bare(scene: Scene) -> Scene:
    """Nothing of ours on it."""
    assert scene.install_sh("uninstall").returncode == 0
    return scene


@pytest.fixture
def installed(scene: Scene) -> Scene:
    """The release of this tree, and nothing to go back to."""
    if "99.0" in scene.install_sh("status").stdout:
        assert scene.install_sh("uninstall").returncode == 0
    done = scene.install_sh("install", token=scene.token)
    assert done.returncode == 0, done.stdout
    return scene


def test_the_one_liner_ends_with_a_served_route_and_uninstall_leaves_nothing(bare: Scene) -> None:
    before = bare.machine.says(FILES)

    done = bare.install_sh("install", token=bare.token)

    assert done.returncode == 0, done.stdout
    assert "runs and is ready" in done.stdout
    assert bare.visit() == "200 hello-from-upstream"
    assert bare.install_sh("uninstall").returncode == 0
    assert bare.machine.says(FILES).splitlines() == before.splitlines()
    assert "could not be found" in bare.machine.run("systemctl status pomerium-agent").stdout
    assert bare.machine.run("ls /run | grep pomerium; pidof envoy").stdout == ""


def test_a_dry_run_changes_nothing(bare: Scene) -> None:
    before = bare.machine.says(FILES)

    done = bare.install_sh("--dry-run", "install", token=bare.token)

    assert (done.returncode, "Nothing was changed." in done.stdout) == (0, True)
    assert bare.machine.says(FILES) == before


def test_install_again_changes_nothing(installed: Scene) -> None:
    before, pid = installed.machine.says(FILES), installed.main_pid()

    done = installed.install_sh("install", token=installed.token)

    assert (done.returncode, "nothing was changed" in done.stdout) == (0, True)
    assert (installed.machine.says(FILES), installed.main_pid()) == (before, pid)


def test_another_setting_is_kept_and_the_service_started_again(installed: Scene) -> None:
    pid = installed.main_pid()
    changed = Scene(
        installed.machine,
        installed.token,
        {**installed.environ, "HEALTH_CHECK_ADDR": "127.0.0.1:28080"},
        installed.houses,
    )

    done = changed.install_sh("install")

    assert done.returncode == 0, done.stdout
    assert installed.main_pid() != pid
    assert installed.install_sh("install").returncode == 0  # said once, kept
    ready = 'import urllib.request as r; print(r.urlopen("http://127.0.0.1:28080/readyz").status)'
    assert installed.machine.says(f"python3 -c '{ready}'") == "200"


@pytest.mark.parametrize(
    ("release", "why"), [("crashes", "tried out beside this one"), ("mute", "was not ready within")]
)
def test_an_upgrade_to_a_broken_release_goes_back_by_itself(installed: Scene, release: str, why: str) -> None:
    pid = installed.main_pid()

    done = installed.install_sh("upgrade", "--wait", "20", wheels=f"/{release}")

    assert done.returncode == 1
    assert why in done.stdout
    assert "runs again and is ready" in done.stdout
    assert installed.main_pid() == pid
    assert installed.visit() == "200 hello-from-upstream"
    assert "99.0" not in installed.install_sh("--version").stdout
    assert installed.machine.says("ls /opt/pomerium-agent/versions").split() == ["1"]


@pytest.mark.parametrize(("verb", "wheels"), [("upgrade", "/next"), ("install", "")])
def test_a_token_that_is_refused_is_not_kept_in_place_of_one_that_was_good(
    installed: Scene, verb: str, wheels: str
) -> None:
    done = installed.install_sh(verb, "--wait", "20", wheels=wheels, token="pomerium-refused-0000")

    assert done.returncode == 1
    assert "it ended with code 3" in done.stdout
    assert "The token and the settings are those of before again" in done.stdout
    assert "runs again and is ready" in done.stdout
    assert installed.machine.says("cat /etc/pomerium-agent/token") == installed.token
    assert installed.machine.says("ls -A /etc/pomerium-agent").split() == ["agent.env", "token"]
    assert installed.visit() == "200 hello-from-upstream"
    assert "99.0" not in installed.install_sh("--version").stdout


def test_an_upgrade_keeps_what_was_there_and_rollback_returns_to_it(installed: Scene) -> None:
    old, pid = installed.install_sh("--version").stdout, installed.main_pid()

    done = installed.install_sh("upgrade", wheels="/next")

    assert done.returncode == 0, done.stdout
    assert "the new agent serves alone" in done.stdout
    assert installed.main_pid() == pid  # it went over, and nobody was disconnected
    running = installed.machine.says("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "/versions/2/bin/python -P -m pomerium_agent agent" in running
    assert "/versions/1/bin/python" not in running  # the Envoy before takes leave of its clients in its own time
    assert "pomerium-agent 99.0.0" in installed.install_sh("--version").stdout
    assert installed.visit() == "200 hello-from-upstream"
    back = installed.install_sh("rollback")
    assert back.returncode == 0, back.stdout
    assert installed.install_sh("--version").stdout == old
    assert installed.visit() == "200 hello-from-upstream"


def test_secrets_are_shown_nowhere(installed: Scene) -> None:
    assert installed.visit() == "200 hello-from-upstream"

    found = installed.machine.run(LEAKS).stdout

    assert "bootstrapped" in found  # the journal was read
    assert "pomerium_zero_token" in found  # and the unit
    assert installed.token not in found
    assert PLANTED not in found
    assert (
        installed.machine.says("stat -c '%a %U' /etc/pomerium-agent /etc/pomerium-agent/token") == "700 root\n600 root"
    )


def test_the_support_bundle_of_the_service_has_its_log_and_no_secret(installed: Scene) -> None:
    """As root, who may read the journal; in /tmp, since nothing of it is to stay."""
    agent, bundle = "/opt/pomerium-agent/current/bin/pomerium-agent", "/tmp/bundle.tar.gz"
    said = installed.machine.says(f"{agent} support --yes -o {bundle}")
    found = installed.machine.says(f"tar -xzOf {bundle}")

    assert "MISSING" not in said
    assert "bootstrapped" in found  # of the journal
    assert "x-api-key" in found  # of the configuration
    assert "the systemd credential pomerium_zero_token" in found  # of the settings of the service, not of this shell
    assert installed.token not in said + found
    assert PLANTED not in said + found
    assert installed.machine.says(f"stat -c '%a %U' {bundle}") == "600 root"


def test_the_service_is_what_it_claims_to_be(installed: Scene) -> None:
    """Unprivileged on 443, with one capability and a watchdog."""
    verified = installed.machine.run("systemd-analyze verify /etc/systemd/system/pomerium-agent.service")
    envoy = installed.machine.says("cat /proc/$(pidof -s envoy)/status")
    facts = dict(line.split(":\t", 1) for line in envoy.splitlines() if ":\t" in line)
    score = installed.machine.says("systemd-analyze security --no-pager pomerium-agent | tail -1")

    assert (verified.returncode, verified.stdout) == (0, "")
    assert int(facts["Uid"].split()[0]) >= 61184  # of the range of dynamic users
    assert {facts[name] for name in ("CapEff", "CapBnd", "CapAmb")} == {f"{1 << 10:016x}"}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    assert installed.machine.says("systemctl show -P WatchdogUSec pomerium-agent") == "30s"
    assert float(score.split(": ")[1].split()[0]) < 2.0


def test_reload_reaches_the_agent_and_costs_nothing(installed: Scene) -> None:
    pid = installed.main_pid()

    installed.machine.says("systemctl reload pomerium-agent")

    assert installed.main_pid() == pid
    assert "SIGHUP" in installed.machine.says("journalctl -u pomerium-agent -o cat | grep 'signal passed on'")
    assert installed.visit() == "200 hello-from-upstream"


def test_a_keeper_that_hangs_is_replaced(installed: Scene) -> None:
    drop_in = "/run/systemd/system/pomerium-agent.service.d"
    installed.machine.says(
        f"mkdir {drop_in} && printf '[Service]\\nWatchdogSec=2\\nTimeoutAbortSec=2\\n' >{drop_in}/test.conf && "
        "systemctl daemon-reload && systemctl restart pomerium-agent"
    )
    pid = installed.main_pid()

    installed.machine.says(f"kill -STOP {pid}")

    installed.machine.eventually("another keeper is ready", lambda: installed.main_pid() not in (pid, "0"))
    installed.machine.eventually("it serves", lambda: installed.visit() == "200 hello-from-upstream")
    installed.machine.says(f"rm -r {drop_in} && systemctl daemon-reload")


def test_a_token_that_is_refused_ends_the_service_for_good(bare: Scene) -> None:
    done = bare.install_sh("install", token="pomerium-refused-0000")

    assert done.returncode == 1
    assert "it ended with code 3" in done.stdout
    assert bare.machine.says(STATE).split() == ["ActiveState=failed", "ExecMainStatus=3", "NRestarts=0"]
    again = bare.install_sh("install", token=bare.token)
    assert again.returncode == 0, again.stdout
    assert bare.visit() == "200 hello-from-upstream"
