#!/usr/bin/env bash
# Whether the files in deploy/ are understood by those that they are made for. Their configurations are checked by `make test`.
set -euo pipefail
cd "$(dirname "$0")/../deploy"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# It looks for the program, which is not installed here. What it does not know it only mentions.
for unit in systemd/*.service; do
    sed 's|/usr/local/bin/portcullis|/bin/true|' "$unit" >"$folder/${unit##*/}"
    said="$(systemd-analyze verify --man=no "$folder/${unit##*/}" 2>&1)" && [ -z "$said" ] ||
        { echo "deploy-check: $unit: $said" >&2; exit 1; }
    systemd-analyze security --offline=true --threshold=25 --no-pager "$folder/${unit##*/}" | tail -n 1
done

# The oldest release that knows sidecars, and the newest that the tool knows.
for release in 1.29 1.37; do
    kubernetes-validate --strict --kubernetes-version "$release" kubernetes/*.yaml
done

docker-compose --file compose/docker-compose.yml config --quiet
echo "deploy-check: ok"
