#!/usr/bin/env bash
# Runs a blade-dist command over many nodes; the same call on each of them. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CLUSTER_TOKEN=shared # the nodes share a token: launch/env.sh must not invent one for this node

bash "$root/launch/install.sh" >&2
source "$root/launch/env.sh"
exec "$root/.venv/bin/python" -m blade_dist.nodes "$@"
