#!/usr/bin/env bash
# Installs pomerium-agent as a systemd service, upgrades it, takes it away again.
# Everything is in functions, and those in one pair of braces that the last line closes and calls: bash runs nothing of
# a download that was cut off, not even what half a word of it would be (`make` of `make_venv`).
{

usage() {
    cat <<'END'
Usage: install.sh [--dry-run] VERB [OPTIONS]

  install      install, or bring what is installed in line with what is said; upgrades only to what is named
  upgrade      install another release beside this one; go back by itself when it does not become ready
  rollback     go back to the release before this one
  uninstall    remove everything, the token and the records of this machine included (--keep-data keeps those)
  status       what is installed, whether it runs, and what it serves
  doctor       look for what is wrong here
  --version    the versions of this script and of what is installed

Options of install and upgrade
  --release X.Y.Z      this release, from the package index; without it the newest
  --from PATH          a wheel, an sdist, or a directory of wheels (then nothing is fetched)
  --sha256 HEX         what --from must hash to; for a directory, its file SHA256SUMS
  --requirements FILE  what to install with it, every line with its hashes
  --wait SECONDS       how long the service may take to become ready (90)
  --dry-run            check everything, say what would be done, change nothing

The token is read from POMERIUM_ZERO_TOKEN, from the file POMERIUM_ZERO_TOKEN_FILE, or from the terminal.
CLUSTER_API_ENDPOINT, CONNECT_SERVER_ENDPOINT, POMERIUM_OTEL_ENDPOINT, ADDRESS, HTTP_REDIRECT_ADDR, GRPC_ADDRESS,
HEALTH_CHECK_ADDR, METRICS_ADDRESS, ENVOY_CONCURRENCY, LOG_LEVEL, BOOTSTRAP_CONFIG_WRITEBACK_URI, SSL_CERT_FILE,
POMERIUM_AGENT_ON_REFUSED, POMERIUM_AGENT_DRAIN_NOTICE, POMERIUM_AGENT_DRAIN_SECONDS, POMERIUM_AGENT_HANDOVER_SECONDS,
POMERIUM_AGENT_MIXED_CLUSTER, OTEL_SDK_DISABLED and DEBUG_FORCE_AUTHENTICATE_FLOW are kept for the service when they are
set; set but empty means: no longer. Other lines of /etc/pomerium-agent/agent.env stay.
POMERIUM_AGENT_PYTHON names the Python to use.
END
}

constants() {
    readonly SCRIPT_VERSION=0.1.0
    readonly SETTINGS="CLUSTER_API_ENDPOINT CONNECT_SERVER_ENDPOINT POMERIUM_OTEL_ENDPOINT ADDRESS HTTP_REDIRECT_ADDR \
GRPC_ADDRESS HEALTH_CHECK_ADDR METRICS_ADDRESS ENVOY_CONCURRENCY LOG_LEVEL BOOTSTRAP_CONFIG_WRITEBACK_URI SSL_CERT_FILE \
POMERIUM_AGENT_ON_REFUSED POMERIUM_AGENT_DRAIN_NOTICE POMERIUM_AGENT_DRAIN_SECONDS \
POMERIUM_AGENT_HANDOVER_SECONDS POMERIUM_AGENT_MIXED_CLUSTER OTEL_SDK_DISABLED DEBUG_FORCE_AUTHENTICATE_FLOW"
    readonly UV="uv>=0.9,<1" # brings a Python where the distribution has none that is new enough
    readonly CLOCK_MAY_DIFFER=60 SPACE_KB=600000 STAYS_UP=4
    ROOT=${POMERIUM_AGENT_ROOT:-} # another root to look at; only with --dry-run
    BASE=$ROOT/opt/pomerium-agent
    KEEPER=$ROOT/run/pomerium-agent/keeper.sock
    GOES_OVER=no
    ETC=$ROOT/etc/pomerium-agent
    UNIT=$ROOT/etc/systemd/system/pomerium-agent.service
    LINK=$ROOT/usr/local/bin/pomerium-agent
    PROBLEMS=()
    TOKEN=""
    TOKEN_GIVEN=no
    # Nothing that this script starts inherits the token.
    if [ "${POMERIUM_ZERO_TOKEN+set}" ]; then
        TOKEN=$POMERIUM_ZERO_TOKEN
        TOKEN_GIVEN=yes
        unset POMERIUM_ZERO_TOKEN
    fi
}

# Talking.

say() { printf '%s\n' "$*"; }
step() { printf '==> %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

problem() { PROBLEMS+=("$*"); }

# Looking; nothing here changes anything.

os_field() { # the value of a key of os-release, without evaluating the file
    local line file=$ROOT/etc/os-release
    [ -r "$file" ] || file=$ROOT/usr/lib/os-release
    [ -r "$file" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        "$1="*)
            line=${line#*=}
            line=${line%[\"\']}
            printf '%s' "${line#[\"\']}"
            return 0
            ;;
        esac
    done <"$file"
}

check_os() {
    local id like
    id=$(os_field ID)
    like=" $id $(os_field ID_LIKE) "
    FAMILY=""
    case $like in
    *" debian "* | *" ubuntu "*) FAMILY=debian ;;
    *" rhel "* | *" fedora "* | *" centos "*) FAMILY=rhel ;;
    esac
    [ -n "$FAMILY" ] || problem "this is ${id:-an unknown system}; install.sh knows Debian, Ubuntu and the RHEL family.\
 Elsewhere install the package pomerium-agent with pip and write a service for it"
}

check_machine() {
    local machine libc version
    machine=$(uname -m)
    case $machine in
    x86_64 | aarch64) ;;
    *) problem "the processor is $machine; Envoy is there for x86_64 and aarch64 only" ;;
    esac
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || true)
    case $libc in
    "glibc "*)
        version=${libc#glibc }
        at_least "$version" 2.31 ||
            problem "glibc is $version; Envoy needs 2.31 (Debian 11, Ubuntu 22.04, RHEL 9, or newer)"
        ;;
    *) problem "the C library is not glibc; Envoy's package is made for glibc only" ;;
    esac
}

at_least() { # version, least
    local major=${1%%.*} minor=${1#*.} least_major=${2%%.*} least_minor=${2#*.}
    minor=${minor%%[!0-9]*}
    [ "$major" -gt "$least_major" ] || { [ "$major" -eq "$least_major" ] && [ "${minor:-0}" -ge "$least_minor" ]; }
}

check_systemd() {
    local version
    if ! version=$(systemctl --version 2>/dev/null); then
        problem "no systemd here; run pomerium-agent in a container instead"
        return 0
    fi
    version=${version#systemd }
    version=${version%%[!0-9]*}
    [ "${version:-0}" -ge 247 ] || problem "systemd is ${version:-unknown}; credentials need 247 or newer"
    [ -n "$ROOT" ] || [ -d /run/systemd/system ] || problem "systemd does not run this machine"
}

check_python() { # a Python that is there, or how one will be had
    local candidate
    PYTHON=""
    for candidate in ${POMERIUM_AGENT_PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            PYTHON=$(command -v "$candidate")
            return 0
        fi
    done
    [ -z "${POMERIUM_AGENT_PYTHON:-}" ] || problem "POMERIUM_AGENT_PYTHON is not a Python 3.11 to 3.14"
}

listening() { # is a TCP port taken?
    local hex
    hex=$(printf ':%04X' "$1")
    awk -v hex="$hex" '$4 == "0A" && substr($2, length($2) - 4) == hex { found = 1 } END { exit !found }' \
        <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null) # the second is missing where IPv6 is off
}

check_ports() {
    local name address port
    if [ -z "$ROOT" ] && systemctl is-active --quiet pomerium-agent 2>/dev/null; then
        return 0 # it holds them itself
    fi
    for name in ADDRESS HTTP_REDIRECT_ADDR HEALTH_CHECK_ADDR GRPC_ADDRESS METRICS_ADDRESS; do
        address=$(setting "$name")
        [ "$name" != ADDRESS ] || address=${address:-:443}
        [ -n "$address" ] || continue
        port=${address##*:}
        [ "$port" != "$address" ] || port=""
        case $port in
        "" | *[!0-9]* | ??????*) problem "$name: '$address' is not host:port, for example :8443" ;;
        *) if listening "$((10#$port))"; then
            problem "port $port ($name) is taken by another program; stop it, or set $name to another one"
        fi ;;
        esac
    done
}

host_of() { # of a URL
    local rest=${1#*://}
    rest=${rest%%[/?#]*}
    rest=${rest##*@}
    case $rest in
    "["*) rest=${rest#[} && printf '%s' "${rest%%]*}" ;;
    *) printf '%s' "${rest%%:*}" ;;
    esac
}

check_names() {
    local name url host seen=" "
    for name in CLUSTER_API_ENDPOINT CONNECT_SERVER_ENDPOINT; do
        url=$(setting "$name")
        case $name in
        CLUSTER_API_ENDPOINT) url=${url:-https://console.pomerium.app/cluster/v1} ;;
        *) url=${url:-https://connect.pomerium.app} ;;
        esac
        case $url in
        http://?* | https://?*) ;;
        *)
            problem "$name: '$url' is not an http or https URL"
            continue
            ;;
        esac
        host=$(host_of "$url")
        case $seen in *" $host "*) continue ;; esac
        seen="$seen$host "
        # Behind a proxy it is for the proxy to know the name.
        [ -z "${HTTPS_PROXY:-${https_proxy:-}}" ] || continue
        getent ahosts "$host" >/dev/null 2>&1 ||
            problem "the name $host ($name) cannot be resolved; look at /etc/resolv.conf and the firewall"
    done
}

check_clock() {
    local url there here apart
    here=$(date -u +%s)
    if [ "$here" -lt 1767225600 ]; then # 2026: before this script was written
        problem "the clock says $(date -u); set it, best by time synchronisation (timedatectl set-ntp true)"
        return 0
    fi
    url=$(setting CLUSTER_API_ENDPOINT)
    there=$(date_of "${url:-https://console.pomerium.app/cluster/v1}" || true)
    if [ -z "$there" ]; then
        warn "the control plane does not answer over HTTP, so the clock was not compared; the service waits for it"
        return 0
    fi
    here=$(date -u +%s)
    there=$(date -u -d "$there" +%s 2>/dev/null) || return 0
    apart=$((here > there ? here - there : there - here))
    [ "$apart" -le "$CLOCK_MAY_DIFFER" ] ||
        problem "the clock is $apart seconds away from that of the control plane; set it (timedatectl set-ntp true)"
}

date_of() { # the Date header of a server
    # Certificates are not looked at: with a wrong clock none would be good, and only the time is read.
    if [ -n "$PYTHON" ]; then
        "$PYTHON" - "$1" <<'END' 2>/dev/null
import ssl, sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=8, context=ssl._create_unverified_context())
except urllib.error.HTTPError as error:
    answer = error
print(answer.headers.get("date", ""))
END
    elif command -v curl >/dev/null 2>&1; then
        curl -ksI -m 8 "$1" | tr -d '\r' | sed -n 's/^[Dd]ate: //p'
    fi
}

check_space() {
    local place=$BASE free
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free=$(df -Pk "$place" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$SPACE_KB" ] || problem "$((free / 1024)) MB are free on $place; $((SPACE_KB / 1024)) MB are needed"
}

check_source() {
    local actual
    [ -z "$REQUIREMENTS" ] || [ -r "$REQUIREMENTS" ] || problem "--requirements: cannot read $REQUIREMENTS"
    if [ -z "$FROM" ]; then
        [ -z "$SHA256" ] || problem "--sha256 is about the file that --from names; use --requirements for the index"
        return 0
    fi
    if [ -d "$FROM" ]; then
        compgen -G "$FROM/pomerium_agent-*" >/dev/null || problem "--from: no pomerium_agent in $FROM"
        actual=$FROM/SHA256SUMS
    else
        case $FROM in
        *.whl | *.tar.gz) ;;
        *) problem "--from: $FROM is neither a wheel (.whl), an sdist (.tar.gz) nor a directory" ;;
        esac
        actual=$FROM
    fi
    if [ ! -r "$actual" ]; then
        if [ -n "$SHA256" ] || [ ! -d "$FROM" ]; then problem "--from: cannot read $actual"; fi
        return 0
    fi
    if [ -n "$SHA256" ] && [ "$(digest "$actual")" != "${SHA256,,}" ]; then
        problem "$actual does not have the hash that --sha256 says; fetch it again"
    fi
    [ ! -d "$FROM" ] || check_sums
}

check_sums() { # every file of a directory is in its SHA256SUMS, and is what that says
    local file name
    (cd "$FROM" && sha256sum --quiet --strict --check SHA256SUMS >/dev/null 2>&1) ||
        problem "the files in $FROM are not what SHA256SUMS there says"
    for file in "$FROM"/*.whl "$FROM"/*.tar.gz; do
        name=${file##*/}
        [ ! -e "$file" ] || grep -qF "  $name" <(sed 's/ \*/  /' "$FROM/SHA256SUMS") ||
            problem "$name is not in $FROM/SHA256SUMS"
    done
}

digest() {
    local sum
    sum=$(sha256sum "$1")
    printf '%s' "${sum%% *}"
}

check_token() {
    if [ "$TOKEN_GIVEN" = no ] && [ -n "${POMERIUM_ZERO_TOKEN_FILE:-}" ]; then
        if [ ! -r "$POMERIUM_ZERO_TOKEN_FILE" ]; then
            problem "POMERIUM_ZERO_TOKEN_FILE: cannot read $POMERIUM_ZERO_TOKEN_FILE"
            return 0
        fi
        TOKEN=$(<"$POMERIUM_ZERO_TOKEN_FILE")
        TOKEN_GIVEN=yes
    fi
    if [ "$TOKEN_GIVEN" = no ] && [ ! -s "$ETC/token" ] && [ "$DRY_RUN" = no ] && { : </dev/tty; } 2>/dev/null; then
        printf 'Cluster token (it is not shown): ' >/dev/tty
        IFS= read -rs TOKEN </dev/tty
        printf '\n' >/dev/tty
        TOKEN_GIVEN=yes
    fi
    if [ "$TOKEN_GIVEN" = yes ]; then
        case $TOKEN in
        "") problem "the token is empty" ;;
        *[[:space:]]*) problem "the token has white space in it; paste it again as one word" ;;
        esac
    elif [ ! -s "$ETC/token" ]; then
        problem "no token: set POMERIUM_ZERO_TOKEN, or POMERIUM_ZERO_TOKEN_FILE to a file that holds it"
    fi
}

check_settings() {
    local name
    for name in $SETTINGS; do
        case ${!name:-} in
        *[$'\n\r"\\']*) problem "$name: quotes, backslashes and line ends cannot be kept" ;;
        esac
    done
}

setting() { # what the service will have: what is said now, else what was kept
    if [ "${!1+set}" ]; then
        printf '%s' "${!1}"
    elif [ -r "$ETC/agent.env" ]; then
        # By hand it may have been written without quotes; the last line counts, as for systemd.
        sed -n "s/^$1=\"\{0,1\}\\([^\"]*\\)\"\{0,1\}\$/\\1/p" "$ETC/agent.env" | tail -n 1
    fi
}

check_everything() {
    PROBLEMS=()
    check_os
    check_machine
    check_systemd
    check_python
    check_settings
    check_ports
    check_names
    check_clock
    check_space
    check_source
    check_token
    [ "${#PROBLEMS[@]}" -gt 0 ] || return 0
    printf 'install.sh: nothing was changed, because\n' >&2
    printf '  - %s\n' "${PROBLEMS[@]}" >&2
    exit 1
}

# What is there.

current() { readlink "$BASE/current" 2>/dev/null || true; }   # versions/3
previous() { readlink "$BASE/previous" 2>/dev/null || true; } # versions/2
release_of() { cat "$BASE/$1/release" 2>/dev/null || true; }
state_of() { systemctl show -P "$1" pomerium-agent 2>/dev/null || true; }

source_name() { # one line that tells two sources apart
    if [ -z "$FROM" ]; then
        printf 'index %s' "${RELEASE:-newest}"
    elif [ -d "$FROM" ]; then
        printf 'wheels %s' "$(cd "$FROM" && sha256sum -- *.whl *.tar.gz 2>/dev/null | sha256sum)"
    else
        printf 'file %s' "$(digest "$FROM")"
    fi
    [ -z "$REQUIREMENTS" ] || printf ' with %s' "$(digest "$REQUIREMENTS")"
}

is_what_is_wanted() { # is the release in use the one that is asked for?
    local now
    now=$(current)
    [ -n "$now" ] || return 1
    [ -x "$BASE/$now/bin/pomerium-agent" ] || return 1
    if [ -z "$FROM$RELEASE" ]; then
        [ "$VERB" = install ]
    elif [ -z "$FROM" ] && [ -z "$REQUIREMENTS" ]; then
        [ "$(release_of "$now")" = "$RELEASE" ]
    else
        [ "$(cat "$BASE/$now/source" 2>/dev/null)" = "$(source_name)" ]
    fi
}

# Doing.

make_python() {
    [ -z "$PYTHON" ] || return 0
    step "installing a Python that is new enough"
    if [ "$FAMILY" = debian ]; then
        apt_install python3 || true
        check_python
        [ -n "$PYTHON" ] || apt_install python3.11 python3.11-venv 2>/dev/null || true # Ubuntu 22.04 has it beside its own
    else
        dnf -y -q install python3.12 || dnf -y -q install python3.11 || true
    fi
    check_python
    [ -n "$PYTHON" ] || managed_python
    [ -n "$PYTHON" ] || die "no Python 3.11 to 3.14 could be had; install one and set POMERIUM_AGENT_PYTHON to it"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

managed_python() { # one of our own, by uv, in a place that the service may read
    [ -z "$FROM" ] || [ ! -d "$FROM" ] || return 0 # nothing is fetched then
    local place=$BASE/python tools
    if [ "$FAMILY" = debian ]; then
        apt_install python3 python3-venv ca-certificates || return 0
    else
        dnf -y -q install python3 || return 0
    fi
    tools=$(mktemp -d)
    if python3 -m venv "$tools/uv" && "$tools/uv/bin/pip" install -q --disable-pip-version-check "$UV" &&
        UV_PYTHON_INSTALL_DIR=$place UV_CACHE_DIR=$tools/cache "$tools/uv/bin/uv" python install -q --no-bin 3.12; then
        PYTHON=$(compgen -G "$place/cpython-3.12*/bin/python3.12" | head -n 1)
    fi
    rm -rf "$tools"
}

make_venv() { # directory
    local pip
    if [ -d "$FROM" ] && pip=$(compgen -G "$FROM/pip-*.whl" | sort -V | tail -n 1) && [ -n "$pip" ]; then
        "$PYTHON" -m venv --without-pip "$1"
        PIP=("$1/bin/python" "$pip/pip")
        return 0
    fi
    PIP=("$1/bin/python" -m pip)
    if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        step "installing what this Python needs to make virtual environments"
        [ "$FAMILY" = debian ] || die "$PYTHON has no venv; install it, or set POMERIUM_AGENT_PYTHON to one that has"
        apt_install "$(basename "$(readlink -f "$PYTHON")")-venv" || apt_install python3-venv
    fi
    "$PYTHON" -m venv "$1"
}

pip_install() { # directory
    local flags=(--quiet --disable-pip-version-check --no-input --no-cache-dir --root-user-action=ignore)
    local package=pomerium-agent${RELEASE:+==$RELEASE}
    if [ -d "$FROM" ]; then
        flags+=(--no-index --find-links "$FROM")
    elif [ -n "$FROM" ]; then
        package=$FROM
    fi
    if [ -n "$REQUIREMENTS" ]; then
        "${PIP[@]}" install "${flags[@]}" --require-hashes --requirement "$REQUIREMENTS" || return 1
        # What is pinned is installed now; a file that was given is checked by --sha256.
        "${PIP[@]}" install "${flags[@]}" --no-deps "$package" && "${PIP[@]}" check --disable-pip-version-check
        return
    fi
    "${PIP[@]}" install "${flags[@]}" "$package"
}

make_release() { # installs beside what is there; sets MADE to versions/N
    local number=1 directory
    while [ -e "$BASE/versions/$number" ]; do number=$((number + 1)); done
    MADE=versions/$number
    directory=$BASE/$MADE
    install -d -m 0755 "$BASE" "$BASE/versions"
    REMOVE_ON_FAILURE=$directory
    make_venv "$directory"
    step "installing pomerium-agent into $directory"
    pip_install "$directory" || die "the packages could not be installed; what ran before still does"
    "$directory/bin/python" -c 'from importlib.metadata import version as v; print(v("pomerium-agent"))' \
        >"$directory/release"
    source_name >"$directory/source"
    "$directory/bin/pomerium-agent" --version >/dev/null || die "the new release does not start; what ran before still does"
    [ -r "$directory/share/pomerium-agent/pomerium-agent.service" ] || die "there is no service in the new release"
    chmod -R go+rX "$directory"
    if command -v restorecon >/dev/null 2>&1; then restorecon -R "$BASE" || true; fi
    REMOVE_ON_FAILURE=""
    say "    release $(release_of "$MADE")"
}

write_file() { # path, mode; the content comes on stdin. Sets CHANGED to yes when it differs from what is there.
    local new
    new=$(mktemp "$1.XXXXXX")
    cat >"$new"
    if cmp -s "$new" "$1" && [ "$(stat -c %a "$1")" = "$2" ]; then
        rm -f "$new"
        return 0
    fi
    chmod "$2" "$new"
    mv -f "$new" "$1"
    CHANGED=yes
}

write_settings() {
    install -d -m 0700 "$ETC"
    keep_settings
    if [ "$TOKEN_GIVEN" = yes ]; then
        write_file "$ETC/token" 600 < <(printf '%s\n' "$TOKEN") # by printf of the shell: on no command line
        TOKEN=""
    fi
    local name value
    {
        for name in $SETTINGS; do
            value=$(setting "$name")
            [ -z "$value" ] || printf '%s="%s"\n' "$name" "$value"
        done
        other_lines
    } | write_settings_file
}

keep_settings() { # as they are, for as long as it is open whether the new ones work
    local name
    for name in token agent.env; do
        rm -f "$ETC/.$name.before"
        [ ! -e "$ETC/$name" ] || cp -p "$ETC/$name" "$ETC/.$name.before"
    done
}

settings_differ() { # from those of before
    local name
    for name in token agent.env; do
        if [ -e "$ETC/.$name.before" ] && ! cmp -s "$ETC/.$name.before" "$ETC/$name"; then return 0; fi
    done
    return 1
}

restore_settings() { # says so, if they are others
    local name
    settings_differ || return 0
    for name in token agent.env; do
        [ ! -e "$ETC/.$name.before" ] || mv -f "$ETC/.$name.before" "$ETC/$name"
    done
    say "The token and the settings are those of before again." >&2
}

other_lines() { # of the settings file: what somebody wrote there by hand
    local line
    [ -r "$ETC/agent.env" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        case " $SETTINGS " in *" ${line%%=*} "*) continue ;; esac
        case $line in "" | "# Settings of this machine for pomerium-agent"*) ;; *) printf '%s\n' "$line" ;; esac
    done <"$ETC/agent.env"
}

write_settings_file() {
    # Read whole before anything is written, as what is kept comes from the same file.
    local text
    text=$(cat)
    printf '# Settings of this machine for pomerium-agent, read by systemd. Written by install.sh.\n%s\n' "$text" >"$ETC/.new"
    if cmp -s "$ETC/.new" "$ETC/agent.env"; then
        rm -f "$ETC/.new"
    else
        chmod 600 "$ETC/.new"
        mv -f "$ETC/.new" "$ETC/agent.env"
        : >"$ETC/.changed"
    fi
}

point() { # link, target: in one step
    ln -sfn "$2" "$1.new" # one may be left of a run that was cut off
    mv -Tf "$1.new" "$1"
}

use() { # versions/N becomes what runs at the next start
    point "$BASE/current" "$1"
    install -d -m 0755 "$(dirname "$UNIT")" "$(dirname "$LINK")"
    write_file "$UNIT" 644 <"$BASE/$1/share/pomerium-agent/pomerium-agent.service"
    point "$LINK" /opt/pomerium-agent/current/bin/pomerium-agent
    systemctl daemon-reload
}

restart() {
    systemctl reset-failed pomerium-agent 2>/dev/null || true
    systemctl restart --no-block pomerium-agent
}

can_go_over() { # versions/N: the service runs, as what it would run as, and its keeper knows how to
    [ "$VERB" = upgrade ] && [ "$CHANGED" = no ] && [ "$(state_of ActiveState)" = active ] &&
        [ -S "$KEEPER" ] && cmp -s "$BASE/$1/share/pomerium-agent/pomerium-agent.service" "$UNIT"
}

go_over() { # to what is current now, while what ran before serves
    step "going over to the new release; the one before serves meanwhile"
    # With the keeper, be its code the same or not: the directory that it runs from is removed one day.
    "$BASE/current/bin/pomerium-agent" upgrade --keeper --socket "${KEEPER%/*}/control.sock"
}

is_ready() { # by its own word: systemd does not hear of an agent that ends again and again below its keeper
    "$BASE/current/bin/pomerium-agent" health --ready --socket "${KEEPER%/*}/control.sock" >/dev/null 2>&1
}

becomes_ready() { # and stays so for a moment; WHY says what it was otherwise
    local end=$((SECONDS + WAIT)) since=0 state restarts
    restarts=$(state_of NRestarts) # of which an old one says nothing
    WHY="it was not ready after $WAIT seconds"
    sleep 1 # for the old one to be told to stop
    while [ "$SECONDS" -lt "$end" ]; do
        state=$(state_of ActiveState)
        if [ "$state" = failed ]; then
            WHY="it ended with code $(state_of ExecMainStatus)"
            return 1
        fi
        if [ "$(state_of NRestarts)" -ge $((restarts + 3)) ]; then
            WHY="it ended again and again, last with code $(state_of ExecMainStatus)"
            return 1
        fi
        if [ "$state" = deactivating ]; then
            end=$((SECONDS + WAIT)) # the one before has as long as its drain says
        fi
        if [ "$state" = active ] && is_ready; then
            [ "$since" -gt 0 ] || since=$SECONDS
            [ "$((SECONDS - since))" -lt "$STAYS_UP" ] || return 0
        else
            since=0
        fi
        sleep 0.5
    done
    return 1
}

last_words() {
    say "Its last lines in the journal:" >&2
    journalctl -u pomerium-agent -n 12 -o cat --no-pager 2>/dev/null | sed 's/^/    /' >&2 || true
}

forget_old() { # all but the current and the previous release
    local directory
    for directory in "$BASE"/versions/*; do
        case ${directory#"$BASE"/} in
        "$(current)" | "$(previous)") ;;
        *) rm -rf "$directory" ;;
        esac
    done
}

clean_up() {
    [ -z "${REMOVE_ON_FAILURE:-}" ] || rm -rf "$REMOVE_ON_FAILURE"
    rm -f "$ETC/.changed" "$ETC/.new" "$ETC"/.*.before "$BASE"/*.new 2>/dev/null || true
}

# The verbs.

needs_root() {
    [ "$DRY_RUN" = no ] || return 0
    [ -z "$ROOT" ] || die "POMERIUM_AGENT_ROOT is for --dry-run only"
    [ "$(id -u)" = 0 ] || die "run it as root, for example with sudo"
}

plan() {
    say "Everything checked; this would be done:"
    [ -n "$PYTHON" ] || say "  - install Python 3.11 or newer, by the package manager or as a private copy"
    if is_what_is_wanted; then
        say "  - nothing to install: release $(release_of "$(current)") is what is wanted"
    else
        say "  - install pomerium-agent (${FROM:-release ${RELEASE:-newest} from the package index}) below $BASE"
        [ -z "$(current)" ] || say "  - keep release $(release_of "$(current)"), and go back to it if the new one is not ready in $WAIT s"
    fi
    [ "$TOKEN_GIVEN" = no ] || say "  - write the token to $ETC/token (mode 0600)"
    say "  - write the settings to $ETC/agent.env, the service to $UNIT, the command to $LINK"
    say "  - start the service and wait until it is ready"
    say "Nothing was changed."
}

install_or_upgrade() {
    local before older
    needs_root
    if [ "$VERB" = upgrade ] && [ -z "$(current)" ]; then die "nothing is installed yet; use install"; fi
    check_everything
    if [ "$DRY_RUN" = yes ]; then
        plan
        return 0
    fi
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    umask 022
    before=$(current)
    older=$(previous)
    CHANGED=no
    if is_what_is_wanted; then
        MADE=$before
    else
        make_python
        make_release
        if [ "$VERB$FROM" = upgrade ] && [ "$(release_of "$MADE")" = "$(release_of "$before")" ]; then
            say "Release $(release_of "$before") is the newest already."
            rm -rf "${BASE:?}/$MADE"
            MADE=$before
        fi
    fi
    write_settings
    [ ! -e "$ETC/.changed" ] || CHANGED=yes
    if [ "$MADE" != "$before" ]; then
        if can_go_over "$MADE"; then GOES_OVER=yes; fi
        CHANGED=yes
        [ -z "$before" ] || point "$BASE/previous" "$before"
    fi
    use "$MADE"
    systemctl enable --quiet pomerium-agent
    if [ "$CHANGED" = no ] && [ "$(state_of ActiveState)" = active ]; then
        say "Everything is as it should be; nothing was changed."
        summary
        return 0
    fi
    WHY="it could not take over"
    if [ "$GOES_OVER" = no ]; then
        step "starting the service"
        restart
    fi
    if { [ "$GOES_OVER" = no ] || go_over; } && becomes_ready; then
        forget_old
        say "Done: pomerium-agent $(release_of "$MADE") runs and is ready."
        summary
        return 0
    fi
    last_words
    if [ -n "$before" ] && [ "$MADE" != "$before" ]; then
        say "Release $(release_of "$MADE") is not ready: $WHY." >&2
        restore_settings
        go_back_to "$before"
        rm -rf "${BASE:?}/$MADE" "$BASE/previous"
        [ -z "$older" ] || point "$BASE/previous" "$older"
        exit 1
    fi
    if [ -n "$before" ] && settings_differ && [ "$(state_of ActiveState)" = failed ]; then
        say "With these settings the service does not start: $WHY." >&2
        restore_settings
        go_back_to "$before"
        exit 1
    fi
    say "pomerium-agent is installed, but not ready: $WHY." >&2
    say "It is left running. Look at: journalctl -u pomerium-agent; then correct it and say install again." >&2
    exit 1
}

go_back_to() {
    step "going back to release $(release_of "$1")"
    use "$1"
    # Of the new release nothing may be left running: its keeper may have taken over, and its agent may not.
    if [ "$GOES_OVER" = no ] || ! go_over; then restart; fi
    if becomes_ready; then
        say "Release $(release_of "$1") runs again and is ready." >&2
    else
        say "Release $(release_of "$1") is in place again, but not ready either: $WHY." >&2
    fi
}

rollback() {
    local before now
    needs_root
    before=$(previous)
    now=$(current)
    if [ -z "$before" ] || [ ! -d "$BASE/$before" ]; then die "no release is kept to go back to"; fi
    if [ "$DRY_RUN" = yes ]; then
        say "Would go back from release $(release_of "$now") to $(release_of "$before"). Nothing was changed."
        return 0
    fi
    point "$BASE/previous" "$now"
    go_back_to "$before"
    summary
    [ "$(state_of ActiveState)" = active ]
}

summary() {
    cat <<END

  release    $(release_of "$(current)")$([ -z "$(previous)" ] || printf ' (kept to go back to: %s)' "$(release_of "$(previous)")")
  service    pomerium-agent.service, $(state_of ActiveState); starts with the machine
  files      $BASE, $ETC, $UNIT, $LINK
  look at    pomerium-agent status
             journalctl -u pomerium-agent -f
END
}

uninstall() {
    needs_root
    local places=("$UNIT" "$LINK" "$BASE")
    [ "$KEEP_DATA" = yes ] || places+=("$ETC" "$ROOT/var/lib/private/pomerium-agent" "$ROOT/var/lib/pomerium-agent" \
        "$ROOT/var/cache/private/pomerium-agent" "$ROOT/var/cache/pomerium-agent")
    if [ "$DRY_RUN" = yes ]; then
        say "This would stop the service and remove what there is of:"
        printf '  %s\n' "${places[@]}"
        say "Nothing was changed."
        return 0
    fi
    systemctl disable --quiet --now pomerium-agent 2>/dev/null || true
    rm -rf "${places[@]}"
    systemctl daemon-reload
    systemctl reset-failed pomerium-agent 2>/dev/null || true
    say "pomerium-agent is removed. Left: its lines in the journal, and packages that came from the distribution."
    [ "$KEEP_DATA" = no ] || say "Kept: $ETC, /var/lib/private/pomerium-agent."
}

status() {
    if [ -z "$(current)" ]; then
        say "Not installed."
        return 3
    fi
    say "release    $(release_of "$(current)")$([ -z "$(previous)" ] || printf ' (kept to go back to: %s)' "$(release_of "$(previous)")")"
    say "service    $(state_of ActiveState) ($(state_of SubState)) since $(state_of StateChangeTimestamp), restarts: $(state_of NRestarts)"
    [ "$(state_of ActiveState)" = active ] || return 1
    "$BASE/current/bin/pomerium-agent" status
}

doctor() {
    local agent=$BASE/current/bin/pomerium-agent name value
    if [ -x "$agent" ] && "$agent" doctor --help >/dev/null 2>&1; then
        for name in $SETTINGS; do # as the service has them
            value=$(setting "$name")
            [ -z "$value" ] || export "$name=$value"
        done
        POMERIUM_ZERO_TOKEN_FILE=$ETC/token RUNTIME_DIRECTORY=/run/pomerium-agent \
            STATE_DIRECTORY=/var/lib/pomerium-agent exec "$agent" doctor
    fi
    check_everything
    say "Nothing is wrong with this machine, as far as install.sh can tell."
    [ -z "$(current)" ] || status
}

print_version() {
    local now
    now=$(current)
    say "install.sh $SCRIPT_VERSION, installed: ${now:+pomerium-agent $(release_of "$now")}${now:-nothing}" | sed 's|versions/[0-9]*$||'
}

options() {
    DRY_RUN=no KEEP_DATA=no VERB=""
    FROM=${POMERIUM_AGENT_FROM:-} SHA256=${POMERIUM_AGENT_SHA256:-} RELEASE=${POMERIUM_AGENT_RELEASE:-}
    REQUIREMENTS=${POMERIUM_AGENT_REQUIREMENTS:-} WAIT=${POMERIUM_AGENT_WAIT:-90}
    while [ $# -gt 0 ]; do
        case $1 in
        --from | --sha256 | --release | --requirements | --wait)
            [ $# -ge 2 ] || die "$1 needs a value"
            case $1 in
            --from) FROM=$2 ;;
            --sha256) SHA256=$2 ;;
            --release) RELEASE=$2 ;;
            --requirements) REQUIREMENTS=$2 ;;
            --wait) WAIT=$2 ;;
            esac
            shift
            ;;
        --dry-run) DRY_RUN=yes ;;
        --keep-data) KEEP_DATA=yes ;;
        -h | --help) VERB=usage ;;
        --version) VERB=version ;;
        install | upgrade | rollback | uninstall | status | doctor | version)
            [ -z "$VERB" ] || die "one verb at a time"
            VERB=$1
            ;;
        *) die "'$1' is not known; --help lists verbs and options" ;;
        esac
        shift
    done
    case $WAIT in "" | *[!0-9]*) die "--wait needs a number of seconds" ;; esac
    case $RELEASE in *[!0-9A-Za-z.+]*) die "--release: '$RELEASE' is not a version" ;; esac
    [ -z "$FROM" ] || [ -z "$RELEASE" ] || die "--from and --release exclude each other"
    FROM=${FROM:+$(realpath -m "$FROM")}
}

main() {
    set -euo pipefail # in here, as everything: half of this line alone would print all variables
    constants
    options "$@"
    case $VERB in
    install | upgrade) install_or_upgrade ;;
    rollback) rollback ;;
    uninstall) uninstall ;;
    status) status ;;
    doctor) doctor ;;
    version) print_version ;;
    usage) usage ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
}

main "$@"; }
