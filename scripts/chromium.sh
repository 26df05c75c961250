#!/usr/bin/env bash
# Installs the browser in which a test opens the report's page, unless it is there already. Debian and Ubuntu only: elsewhere it says
# what is missing and leaves the rest to the test, which fails with the same words.
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "chromium and chromedriver are missing, and there is no apt-get: install them for the report's browser test" >&2
    exit 0
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "chromium and chromedriver are missing: as root, run apt-get install chromium chromium-driver" >&2
        exit 0
    fi
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
install() {
    "${as_root[@]}" apt-get install --yes --quiet --no-install-recommends chromium chromium-driver fonts-dejavu-core
}
install || { "${as_root[@]}" apt-get update --quiet && install; }
