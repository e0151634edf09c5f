#!/usr/bin/env bash
# Checks everything: style, types, tests. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case ${1:-} in
  -h | --help)
    cat <<'EOF'
Usage: launch/test.sh [PYTEST ARGUMENTS]

Installs blade-dist with its development tools where that is not done (launch/install.sh --dev), then runs
ruff check, ruff format --check, mypy and pytest, and stops at the first that fails.

Examples:
  launch/test.sh
  launch/test.sh -m "not slow"      # without tests that start Ray, vLLM or DeepSpeed: under 3 minutes on 2 cores
  launch/test.sh tests/posterior/test_beta.py
  launch/test.sh -k codec -x
  launch/test.sh -n 0 --pdb tests/posterior    # in one process, for a debugger
EOF
    exit
    ;;
esac

check() {
  echo "== $*"
  "$root/.venv/bin/python" -m "$@"
}

bash "$root/launch/install.sh" --dev
source "$root/launch/env.sh"
cd "$root"
check ruff check
check ruff format --check
check mypy
# Two at a time, as most of a slow test is a process that starts on one core. A file's tests share fixtures: one worker
# has them all, and a Ray of its own.
check pytest --numprocesses 2 --dist loadfile --durations=40 --durations-min=5 "$@"
