# Shared by scripts/demo, scripts/test and scripts/check: finds Python, installs what is missing, keeps .venv up to date.
# Sourced, never run. Plain bash; every function says what it does in one line and stops with one line when it cannot.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PY="$VENV/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
unset PYTHONDONTWRITEBYTECODE # or every process of the tests compiles our modules and its assertions once more
export PIP_PROGRESS_BAR=off # its lines are shown by `progress`

note() { printf '%s\n' "-- $*" >&2; }

fail() {
    printf '%s\n' "${0##*/}: error: $*" >&2
    exit 1
}

# Runs a command that takes long: says every few seconds what it is at and for how long, and on failure its last lines.
# The command stays in the foreground, so that Ctrl-C reaches it; who reports ends with it or with the script.
progress() {
    local what="$1" log reporter rc=0
    shift
    log="$(mktemp)"
    note "$what"
    report_progress "$what" "$log" &
    reporter=$!
    "$@" >"$log" 2>&1 || rc=$?
    kill "$reporter" 2>/dev/null || true
    wait "$reporter" 2>/dev/null || true
    if can_redraw; then printf '\r\033[K' >&2; fi
    if [ "$rc" != 0 ]; then tail -n 20 "$log" >&2; fi
    rm -f "$log"
    return "$rc"
}

can_redraw() { [ -t 2 ] && [ -z "${CI:-}" ] && [ "${TERM:-dumb}" != dumb ]; }

# Shows the last line of a log and the seconds since the start: one line rewritten on a terminal, plain lines elsewhere.
report_progress() {
    local what="$1" log="$2" started=$SECONDS every="${PROGRESS_S:-10}" doing never
    if can_redraw; then every=1; fi
    exec {never}<> <(:) # nothing ever comes out of it: a wait that leaves no process behind when it is ended
    while kill -0 $$ 2>/dev/null; do
        read -r -t "$every" -u "$never" || true
        doing="$(tail -n 1 "$log" 2>/dev/null | tr -d '\r' | cut -c 1-60)"
        if can_redraw; then
            printf '\r\033[K-- %d s: %s' $((SECONDS - started)) "$doing" >&2
        else
            note "$what: $((SECONDS - started)) s: $doing"
        fi
    done
}

# Installs with pip and shows how it goes; the first argument says what for.
pip_install() {
    local what="$1"
    shift
    progress "$what" "$PY" -m pip install "$@"
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
    export DEBIAN_FRONTEND=noninteractive
    progress "reading the lists of system packages" apt-get update -q ||
        fail "apt-get update failed; check the network and /etc/apt/sources.list"
    progress "installing system packages: ${missing[*]}" apt-get install -y -q --no-install-recommends "${missing[@]}" ||
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
    progress "creating .venv with $("$PYTHON" --version)" "$PYTHON" -m venv --clear "$VENV" ||
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
        pip_install "updating pip" --upgrade 'pip>=23.2' || fail "pip could not update itself"
    report="$(mktemp)"
    pip_install "looking what $pin would bring" --dry-run --report "$report" "$pin" || fail "pip finds no $pin for $("$PY" --version)"
    "$PY" - "$report" <<'PYTHON' || rc=$?
import json, pathlib, re, sys
names = [i["metadata"]["name"] for i in json.loads(pathlib.Path(sys.argv[1]).read_text())["install"]]
sys.exit(3 if any(re.match(r"(nvidia|cuda)[-_]", n, re.I) for n in names) else 0)
PYTHON
    rm -f "$report"
    case "$rc" in
        0) pip_install "installing $pin" "$pin" || fail "pip could not install $pin" ;;
        3)
            note "pip's default $pin brings CUDA: taking the CPU build from download.pytorch.org"
            pip_install "installing $pin" "$pin" --index-url https://download.pytorch.org/whl/cpu ||
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
    need_cpu_torch
    pip_install "installing the Python packages for development into .venv (a few minutes the first time)" \
        -e "$ROOT[dev,live]" 'hatchling>=1.24' editables || fail "pip install -e '.[dev,live]' failed"
    need_no_cuda
    mark_current dev
}
