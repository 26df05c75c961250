#!/usr/bin/env bash
# Installs the system libraries that Mooncake's wheel links to, unless they are there already.
set -euo pipefail
python=${1:?usage: mooncake_libraries.sh PYTHON, of an environment that has tercet}
"$python" -c "from tercet.transfer.optional import require; require('mooncake')" 2>/dev/null && exit 0
exec "$(dirname "$0")/apt_install.sh" "transport mooncake" libibverbs1 librdmacm1 libnuma1
