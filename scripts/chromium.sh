#!/usr/bin/env bash
# Installs the browser in which tests open the pages, unless it is there already.
set -euo pipefail
command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
exec "$(dirname "$0")/apt_install.sh" "the browser test" chromium chromium-driver fonts-dejavu-core
