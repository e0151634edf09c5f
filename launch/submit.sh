#!/usr/bin/env bash
# Submits a blade-dist command as a Ray job. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
  cat <<'EOF'
Usage: launch/submit.sh [OPTIONS] COMMAND...
       launch/submit.sh --stop ID | --logs ID | --list

Submits a blade-dist command (train CONFIG, run CONFIG, ...) to a running Ray cluster as a job, and shows its log until it
ends; the exit status is the job's. If it was stopped or lost, submit it again: it resumes from its last checkpoint.

This checkout travels with the job (without .git, .venv, runs and results). Nothing is installed on the cluster: its
nodes have the environment of launch/install.sh. Paths in CONFIG must be absolute, on storage that all nodes share.

  --address URL   the cluster's dashboard; else RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265
  --id NAME       name of the job; else one is made from date and time
  --no-wait       returns once the job is accepted
  --dry-run       prints the ray command instead

The token is required: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

Examples:
  launch/submit.sh train /shared/my.yaml --set target=static
  launch/submit.sh --id night --no-wait run /shared/my.yaml
  launch/submit.sh --stop night

The same by hand:
  ray job submit --working-dir . --runtime-env launch/runtime_env.yaml -- python -m blade_dist train /shared/my.yaml
EOF
}

stop() { # one line that says what to do
  echo "launch/submit.sh: $1" >&2
  exit 2
}

value() { [[ $# -ge 2 ]] || stop "$1 needs a value (see --help)"; }

address=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
id=blade-$(date +%Y%m%d-%H%M%S)-$$
wait=()
dry=
verb=submit
while [[ ${1:-} == -* ]]; do
  case $1 in
    -h | --help) usage && exit ;;
    --address) value "$@" && address=$2 && shift ;;
    --id) value "$@" && id=$2 && shift ;;
    --stop | --logs) value "$@" && verb=${1#--} && id=$2 && shift ;;
    --list) verb=list ;;
    --no-wait) wait=(--no-wait) ;;
    --dry-run) dry="echo" ;;
    *) stop "$1: unknown (see --help)" ;;
  esac
  shift
done

[[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} || -s ${HOME:-}/.ray/auth_token ]] ||
  stop "no token: set RAY_AUTH_TOKEN to the cluster's, or RAY_AUTH_TOKEN_PATH to a file of it"
export CLUSTER_TOKEN=shared # the cluster has a token: launch/env.sh must not invent another
bash "$root/launch/install.sh" >&2
source "$root/launch/env.sh"

[[ -n $dry ]] || "$root/.venv/bin/python" -m blade_dist.nodes.job_server "$address" || exit 2

job=("$root/.venv/bin/ray" job)
case $verb in
  submit)
    (($#)) || stop "no command, for example: train /shared/my.yaml (see --help)"
    cd "$root"
    exec $dry "${job[@]}" submit --address "$address" --submission-id "$id" "${wait[@]}" --working-dir "$root" \
      --runtime-env "$root/launch/runtime_env.yaml" -- python -m blade_dist "$@"
    ;;
  logs) exec $dry "${job[@]}" logs --address "$address" --follow "$id" ;;
  stop) exec $dry "${job[@]}" stop --address "$address" "$id" ;;
  list) exec $dry "${job[@]}" list --address "$address" ;;
esac
