#!/usr/bin/env bash
# Installs Debian packages as root or by sudo. Where that can't be, says on stderr what is missing and what to do, and leaves the rest
# to the tests, which are skipped or fail with the same words.
set -euo pipefail
what=${1:?usage: apt_install.sh WHAT PACKAGE..., WHAT as in "the browser test"}
shift
if ! command -v apt-get >/dev/null; then
    echo "$what needs $*, and there is no apt-get: install them" >&2
    exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "$what needs $*: as root, run apt-get install $*" >&2
        exit 0
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
install() {
    "${as_root[@]}" apt-get install --yes --quiet --no-install-recommends "$@"
}
install "$@" || { "${as_root[@]}" apt-get update --quiet && install "$@"; }
