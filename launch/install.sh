#!/usr/bin/env bash
# Makes .venv in the repository root, with everything blade-dist needs. See --help.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
torch=torch==2.13.0+cpu

usage() {
  cat <<'EOF'
Usage: launch/install.sh [--dev]

Installs blade-dist into .venv in the repository root: on a machine with an NVIDIA GPU the official vLLM, else the
pinned CPU stack (launch/requirements-cpu.lock). A second call does nothing, unless the pins have changed.

  --dev    also what tests and checks it (launch/requirements-dev.lock)

Environment:
  PYTHON                Python 3.11 or 3.12 to use; else python3.11, python3.12, python3 or python is taken
  PIP_EXTRA_INDEX_URL   on a machine without a GPU: PyTorch's CPU wheel index, where pip is not set up to find its wheels
  PIP_*                 pip's other settings

Examples:
  launch/install.sh
  PYTHON=/opt/python3.12/bin/python3 launch/install.sh --dev

Exit status: 0 installed, 1 a step failed (the log is .venv/install.log), 2 something is missing on this machine.
EOF
}

stop() { # one line that says what to do
  echo "launch/install.sh: $1" >&2
  exit "${2:-2}"
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; }

find_python() {
  local name
  if [[ -n ${PYTHON:-} ]]; then
    supported "$PYTHON" || stop "PYTHON=$PYTHON is not a Python 3.11 or 3.12 that runs"
    echo "$PYTHON"
    return
  fi
  for name in python3.11 python3.12 python3 python; do
    if supported "$name"; then
      echo "$name"
      return
    fi
  done
  stop "no Python 3.11 or 3.12 is installed here: install one, or set PYTHON to its path"
}

has_gpu() { [[ -d /proc/driver/nvidia/gpus ]] || nvidia-smi -L >/dev/null 2>&1; }

fingerprint() { # of everything that decides what is installed
  (cd "$root" && sha256sum pyproject.toml launch/install.sh "$@" && echo "$device") | sha256sum | cut -d' ' -f1
}

is_current() { [[ -f $venv/$1.stamp && $(<"$venv/$1.stamp") == "$2" ]]; }

step() { # step "what" command...: one progress line, its output to the log
  local what=$1 start=$SECONDS
  shift
  printf '%s ... ' "$what"
  if ! "$@" >>"$venv/install.log" 2>&1; then
    echo "failed"
    stop "$what failed: $(grep -E '^(ERROR|error)' "$venv/install.log" | head -1 || true) (all of it: $venv/install.log)" 1
  fi
  echo "$((SECONDS - start)) s"
}

pip() { DS_BUILD_OPS=0 "$python" -m pip "$@"; } # DS_BUILD_OPS=0: deepspeed compiles nothing, as nothing that is used needs it

# .venv/owner names the folder and the Python it was made with, .venv/unfinished is there while a step runs.
make_venv() {
  local base=$1 need_gb=$2 free_kb
  if [[ -e $venv && ! -f $venv/owner ]]; then
    stop "$venv exists, and launch/install.sh did not make it: move it away"
  fi
  "$base" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    stop "$base has no venv module: install it (Debian and Ubuntu: the package python3-venv, or python3.11-venv)"
  rm -rf "$venv"
  free_kb=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
  ((free_kb >= need_gb * 1024 * 1024)) ||
    stop "$((free_kb / 1024 / 1024)) GB free at $root, and $need_gb GB are needed: make room"
  mkdir "$venv"
  owner "$base" >"$venv/owner"
  touch "$venv/unfinished"
  step "making .venv with $("$base" -V)" "$base" -m venv "$venv"
}

owner() { echo "$root $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; }

usable() { # whole, still where it was made, and with the Python that PYTHON names, if it is set
  [[ -f $venv/owner && ! -f $venv/unfinished ]] && "$python" -c '' 2>/dev/null || return 1
  [[ $(<"$venv/owner") == "$(owner "${PYTHON:-$python}")" ]]
}

install_cpu() {
  pip install --dry-run --no-deps "$torch" >>"$venv/install.log" 2>&1 ||
    stop "pip finds no $torch for $("$python" -V): point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheel index and call again"
  local lock=$root/launch/requirements-cpu.lock
  grep -v '^deepspeed==' "$lock" >"$venv/wheels.txt"
  grep '^deepspeed==' "$lock" >"$venv/sources.txt"
  step "installing $(grep -c '^[a-z]' "$venv/wheels.txt") packages (0.8 GB to fetch, some 2 minutes on 2 cores)" \
    pip install --no-deps --only-binary :all: -r "$venv/wheels.txt"
  step "building deepspeed" pip install --no-deps --no-build-isolation -r "$venv/sources.txt"
  step "installing blade-dist" pip install --no-deps --no-build-isolation -e "$root"
}

install_gpu() {
  step "installing blade-dist with vLLM for this GPU (8 GB to fetch, some minutes)" \
    pip install -e "${root}[gpu]"
}

install_dev() {
  step "installing the development tools" pip install --no-deps -r "$root/launch/requirements-dev.lock"
}

main() {
  local dev=false device=cpu need_gb=5 base current
  for argument in "$@"; do
    case $argument in
      --dev) dev=true ;;
      -h | --help) usage && return ;;
      *) stop "$argument: unknown; the only option is --dev (see --help)" ;;
    esac
  done
  if has_gpu; then device=gpu need_gb=20; fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_USER=0
  unset PYTHONHOME PYTHONPATH

  exec 9>"$root/.venv.lock"
  if command -v flock >/dev/null; then flock 9; fi
  [[ -z ${PYTHON:-} ]] || supported "$PYTHON" || stop "PYTHON=$PYTHON is not a Python 3.11 or 3.12 that runs"
  if ! usable; then
    base=$(find_python)
    make_venv "$base" "$need_gb"
  fi

  current=$(fingerprint launch/requirements-cpu.lock)
  if ! is_current run "$current"; then
    touch "$venv/unfinished"
    "install_$device"
    echo "$current" >"$venv/run.stamp"
  fi
  current=$(fingerprint launch/requirements-dev.lock)
  if $dev && ! is_current dev "$current"; then
    touch "$venv/unfinished"
    install_dev
    echo "$current" >"$venv/dev.stamp"
  fi
  rm -f "$venv/unfinished"
}

main "$@"
