# shellcheck shell=bash
# Sourced by the scripts beside it: what every process of a run inherits.

# Ray requires a token of every connection. Where none is set up (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token)
# and no cluster is named or to be built, this run gets a new one: it lives in the environment alone.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [[ $RAY_AUTH_MODE == token && -z ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}${RAY_ADDRESS:-}${CLUSTER_TOKEN:-} &&
  ! -s ${HOME:-}/.ray/auth_token ]]; then
  RAY_AUTH_TOKEN=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
  export RAY_AUTH_TOKEN
fi

# Nothing reports home.
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
