#!/usr/bin/env bash
# A training job over two hosts of this machine, and what may go wrong between them. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

case ${1:-} in
  -h | --help)
    cat <<'EOF'
Usage: tests/multi_node/run.sh [--json FILE] [--quick]

Makes two hosts out of network namespaces (each with an address and a raylet), runs launch/multi_node.sh on both, with learners
on one and rollouts on the other, and compares with the same job on one host. Then the same with a wrong token; and, which
--quick leaves out, with a node of other software or without the run, with doctor, with the link down for 20 s, and with
one host lost. Jobs are started by hand, by a stub of srun and by a stub of ssh, which run real processes on the hosts.
The bridge between them is in a namespace, too: nothing leaves this machine. Where namespaces are not permitted it says
so, and the JSON has "skipped": true.

Example: bash tests/multi_node/run.sh --json out.json
EOF
    exit
    ;;
esac

bash "$root/launch/install.sh" --dev
user=()
((EUID == 0)) || user=(--user --map-root-user)
inside=(unshare "${user[@]}" --net --mount --pid --fork --kill-child --mount-proc)
python=$root/.venv/bin/python
cd "$root"
if ! why=$("${inside[@]}" "$python" -m tests.multi_node.hosts 2>&1); then
  exec "$python" -m tests.multi_node.two_hosts --skipped "network namespaces are not permitted here: ${why##*$'\n'}" "$@"
fi
exec "${inside[@]}" "$python" -m tests.multi_node.two_hosts "$@"
