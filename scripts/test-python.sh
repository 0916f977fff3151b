#!/usr/bin/env bash
# The tests of sdk/python: `test-python.sh [PYTEST ARGUMENT…]`, by the first Python that has pytest and PyJWT, which
# `ensure-tools.sh pytest` sees to.
set -euo pipefail
cd "$(dirname "$0")/.."

for python in python3 /usr/bin/python3 target/tools/pytest/bin/python; do
    "$python" -c 'import pytest, jwt' 2>/dev/null || continue
    python="$(command -v "$python")"
    python="$(realpath --no-symlinks "$python")"
    cd sdk/python
    exec "$python" -m pytest -q -p no:cacheprovider "$@"
done
echo "test-python: no Python with pytest and PyJWT (Debian: apt install python3-pytest python3-jwt)" >&2
exit 1
