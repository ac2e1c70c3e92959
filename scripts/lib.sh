# Shared by scripts/demo, scripts/test and scripts/check: finds Python, installs what is missing, keeps .venv up to date.
# Sourced, never run. Plain bash; every function says what it does in one line and stops with one line when it cannot.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PY="$VENV/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
if [ -n "${CI:-}" ] || [ ! -t 2 ]; then export PIP_PROGRESS_BAR=off; fi

note() { printf '%s\n' "-- $*" >&2; }

fail() {
    printf '%s\n' "${0##*/}: error: $*" >&2
    exit 1
}

# True when the Python given is 3.10 or newer.
python_is_usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# Prints the Python to use: $CLCR_PYTHON, python3, or a versioned one; nothing when there is none.
find_python() {
    local name
    for name in ${CLCR_PYTHON:+"$CLCR_PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null 2>&1 && python_is_usable "$name"; then
            command -v "$name"
            return
        fi
    done
}

# Prints the Debian packages this Python lacks: the whole of it, its ensurepip, or (with "headers") its Python.h.
python_packages() {
    local python="$1" want_headers="${2:-}" series
    if [ -z "$python" ]; then
        echo python3 python3-venv ${want_headers:+python3-dev}
        return
    fi
    series=python3
    # Only the distribution's default Python is covered by the packages without a version in their name.
    if [ "$("$python" -c 'import sys; print(sys.version_info[:2])')" != "$(/usr/bin/python3 -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)" ]; then
        series="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    fi
    if [ ! -x "$PY" ] && ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then echo "$series-venv"; fi
    if [ -n "$want_headers" ] && [ ! -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then
        echo "$series-dev"
    fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Installs the Debian packages given that are not there; without root it prints the one line to run and stops.
need_packages() {
    local name missing=()
    if ! command -v apt-get >/dev/null 2>&1; then
        note "no apt-get here: if a step below fails, install your system's packages for: $*"
        return
    fi
    for name in "$@"; do is_installed "$name" || missing+=("$name"); done
    if [ "${#missing[@]}" = 0 ]; then return; fi
    if [ "$(id -u)" != 0 ]; then
        printf '%s\n' "${0##*/}: this machine lacks ${#missing[@]} system package(s). Run this line, then scripts/${0##*/} again:" >&2
        printf '%s\n' "sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    note "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || fail "apt-get update failed; check the network and /etc/apt/sources.list"
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get could not install: ${missing[*]}"
}

# Installs the packages given and whatever Python itself lacks; sets PYTHON.
need_system() {
    local wanted=()
    PYTHON="$(find_python)"
    read -r -a wanted <<<"$(python_packages "$PYTHON" headers | tr '\n' ' ')"
    need_packages "${wanted[@]}" "$@"
    PYTHON="$(find_python)"
    [ -n "$PYTHON" ] || fail "no Python 3.10 or newer found; install one and name it: CLCR_PYTHON=/path/to/python3.11 scripts/${0##*/}"
}

# Creates .venv, or creates it again when the folder was moved or its Python is gone.
need_venv() {
    if [ -x "$PY" ] && python_is_usable "$PY" && "$PY" -m pip --version >/dev/null 2>&1 &&
        [ "$("$PY" -c 'import sys; print(sys.prefix)')" = "$VENV" ]; then return; fi
    note "creating .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$VENV" >&2 ||
        fail "$PYTHON cannot create a virtual environment; install its venv module or set CLCR_PYTHON"
}

# Prints what a set-up depends on; a stamp with the same text means that there is nothing to do.
stamp_of() {
    { echo "$1 $ROOT"; "$PY" --version; cat "$ROOT/pyproject.toml" "$ROOT/scripts/lib.sh"; } | sha256sum | cut -d ' ' -f 1
}

is_current() { [ -x "$PY" ] && [ "$(cat "$VENV/.clcr-$1" 2>/dev/null)" = "$(stamp_of "$1")" ]; }

mark_current() { stamp_of "$1" >"$VENV/.clcr-$1"; }

# Installs torch without CUDA: from wherever pip is configured to look, or from PyTorch's CPU index when that would bring CUDA.
need_cpu_torch() {
    local pin report rc=0
    pin="$(grep -o 'torch==[0-9.]*' "$ROOT/pyproject.toml" | head -n 1)"
    if "$PY" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${pin#torch==}')" 2>/dev/null; then return; fi
    # pip 23.2 is the first that resolves from metadata alone; an older one would download CUDA in order to report it.
    "$PY" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (23, 2))' ||
        "$PY" -m pip install -qq --upgrade 'pip>=23.2' || fail "pip could not update itself"
    report="$(mktemp)"
    "$PY" -m pip install -qq --dry-run --report "$report" "$pin" >&2 || fail "pip finds no $pin for $("$PY" --version)"
    "$PY" - "$report" <<'PYTHON' || rc=$?
import json, pathlib, re, sys
names = [i["metadata"]["name"] for i in json.loads(pathlib.Path(sys.argv[1]).read_text())["install"]]
sys.exit(3 if any(re.match(r"(nvidia|cuda)[-_]", n, re.I) for n in names) else 0)
PYTHON
    rm -f "$report"
    case "$rc" in
        0) "$PY" -m pip install -qq "$pin" || fail "pip could not install $pin" ;;
        3)
            note "pip's default $pin brings CUDA: taking the CPU build from download.pytorch.org"
            "$PY" -m pip install -qq "$pin" --index-url https://download.pytorch.org/whl/cpu ||
                fail "pip could not install $pin from https://download.pytorch.org/whl/cpu"
            ;;
        *) fail "pip's report about $pin could not be read" ;;
    esac
}

# Stops when anything of CUDA got into .venv: this project's development needs none and it costs 4.65 GiB.
need_no_cuda() {
    "$PY" - <<'PYTHON'
import importlib.metadata, sys
found = sorted({n for d in importlib.metadata.distributions() if (n := d.metadata["Name"] or "").lower().startswith("nvidia-")})
try:
    import torch
    if torch.version.cuda:
        found.append(f"torch {torch.__version__} (built for CUDA {torch.version.cuda})")
except ImportError:
    pass
if found:
    sys.exit("error: CUDA packages in .venv: " + ", ".join(found) + "; remove .venv and run scripts/test again")
PYTHON
}

# The development environment: system packages, .venv, CPU torch, every extra the tests use.
need_development() {
    if is_current dev; then return; fi
    need_system gcc libc6-dev portaudio19-dev
    need_venv
    note "installing the Python packages for development into .venv (a few minutes the first time)"
    need_cpu_torch
    "$PY" -m pip install -qq -e "$ROOT[dev,live]" 'hatchling>=1.24' editables >&2 || fail "pip install -e '.[dev,live]' failed"
    need_no_cuda
    mark_current dev
}
