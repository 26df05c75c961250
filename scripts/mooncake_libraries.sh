#!/usr/bin/env bash
# Installs the system libraries that Mooncake's wheel links to, unless they are there already. Debian and Ubuntu only:
# elsewhere, or without root, it says what is missing, and the tests of that transport are skipped, saying the same.
set -euo pipefail
python=${1:?usage: mooncake_libraries.sh PYTHON, of an environment that has tercet}
if "$python" -c "from tercet.transfer.optional import require; require('mooncake')" 2>/dev/null; then
    exit 0
fi
packages=(libibverbs1 librdmacm1 libnuma1)
if ! command -v apt-get >/dev/null; then
    echo "transport mooncake cannot run: it needs ${packages[*]}, and there is no apt-get" >&2
    exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "transport mooncake cannot run: as root, run apt-get install ${packages[*]}" >&2
        exit 0
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
install() {
    "${as_root[@]}" apt-get install --yes --quiet --no-install-recommends "${packages[@]}"
}
install || { "${as_root[@]}" apt-get update --quiet && install; }
