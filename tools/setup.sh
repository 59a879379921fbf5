#!/bin/sh
# Create the virtual environment named by the first argument and install the project with its tools into it.
# Says what is missing on machines where Python comes in pieces.
set -eu
venv=$1
python=${PYTHON:-python3}

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "no $python found; install Python 3.11 or newer, or say make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old; Python 3.11 or newer is needed (make PYTHON=/path/to/python3)"

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        fail "this Python cannot create virtual environments; on Debian and Ubuntu: apt install python3-venv"
    }
fi
printf 'setup: installing into %s (about a minute the first time)\n' "$venv" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable . --group dev
