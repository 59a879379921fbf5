#!/usr/bin/env bash
# Runs a command in the unpacked root of an image as a container engine would: as process 1, as user 10001, without
# capabilities, with a root that cannot be written and three places that can. For machines without an engine; the
# network is the machine's own. Needs root and util-linux. Variables are given as NAME=VALUE before the command.
#
#   tools/run_image.sh ROOT POMERIUM_ZERO_TOKEN_FILE=… pomerium-agent run
set -euo pipefail
root=$(realpath -- "$1")
shift
export root
# shellcheck disable=SC2016
exec unshare --mount --pid --fork --kill-child=SIGKILL --propagation private bash -euc '
    mount --bind "$root" "$root"
    mount -o remount,bind,ro,nosuid "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for place in run/pomerium-agent var/lib/pomerium-agent; do
        mount -t tmpfs -o mode=0700,uid=10001,gid=10001 tmpfs "$root/$place"
    done
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    exec chroot "$root" env -i PATH=/opt/pomerium-agent/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 \
        RUNTIME_DIRECTORY=/run/pomerium-agent STATE_DIRECTORY=/var/lib/pomerium-agent \
        BOOTSTRAP_CONFIG_FILE=/var/lib/pomerium-agent/bootstrap.dat setpriv --reuid 10001 --regid 10001 \
        --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs env "$@"
' bash "$@"
