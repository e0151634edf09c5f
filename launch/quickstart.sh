#!/usr/bin/env bash
# From a bare machine to an aligned recommender and its report. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case ${1:-} in
  -h | --help)
    cat <<'EOF'
Usage: launch/quickstart.sh [OPTIONS of `blade-dist run`]

Installs blade-dist where that is not done (launch/install.sh), then runs every stage on a small synthetic log with the
settings of launch/configs/quickstart.yaml: data, fine-tuning, alignment, evaluation, export. On 2 CPU cores this takes
5 to 10 minutes; on a GPU it has not been run yet. Paths are relative to the repository root.

Examples:
  launch/quickstart.sh
  launch/quickstart.sh --set run.dir=runs/mine --set run.seed=1
  RAY_ADDRESS=auto launch/quickstart.sh          # on a running Ray cluster
EOF
    exit
    ;;
esac

bash "$root/launch/install.sh"
source "$root/launch/env.sh"
cd "$root"
exec .venv/bin/blade-dist run launch/configs/quickstart.yaml "$@"
