"""The Dockerfile: what can be said of it without an engine. tools/run_image.sh runs what is built from it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "Dockerfile").read_text()
FINAL = TEXT[TEXT.rindex("\nFROM ") :]


def test_the_linter_has_no_complaint() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_it_runs_as_a_user_that_a_kubelet_can_tell_is_not_root() -> None:
    assert re.search(r"^USER (\d+):\d+$", FINAL, re.MULTILINE)
    assert not re.search(r"^USER (0|root)", FINAL, re.MULTILINE)


def test_no_token_can_get_into_a_layer() -> None:
    """Not by a variable of the build, and not by a file that lies about: only what the build needs is sent."""
    assert "TOKEN" not in "".join(re.findall(r"^(?:ARG|ENV|COPY)[^#]*?$", TEXT, re.MULTILINE))
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    sent = {line[1:] for line in ignored if line[0] == "!"}
    copied = set(" ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE)).split())
    assert sent == copied


def test_the_command_is_the_process_itself() -> None:
    """The exec form: a shell as process 1 would keep SIGTERM to itself."""
    assert 'ENTRYPOINT ["pomerium-agent"]' in FINAL
    assert 'CMD ["run"]' in FINAL
    assert re.search(r'^HEALTHCHECK .* CMD \["pomerium-agent", "health"', FINAL, re.MULTILINE)
