# Sourced by the other scripts: brings a bare Debian or Ubuntu machine to where ringfence runs from this checkout.
# It installs only what is missing, and says what it installs.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${RINGFENCE_VENV:-$top/.venv}

say() { printf '== %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "this needs root, and there is no sudo: $*"
        return 1
    fi
}

# ensure_packages PACKAGE... : apt packages, those that are not there yet
ensure_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "not a Debian or Ubuntu machine: install what these packages hold by hand: ${missing[*]}"
        return 1
    fi
    say "installing system packages: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# Debian's own python3 comes without ensurepip; another one first on the PATH may have it.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# ensure_venv EXTRA : a virtual environment with this checkout and its dependencies in it
ensure_venv() {
    local extra=$1 python stamp wanted
    if ! python=$(find_python); then
        ensure_packages python3 python3-venv
        python=$(find_python) || { say "Python 3.11 or newer is needed"; return 1; }
    fi
    stamp=$venv/installed
    wanted="$extra $top $(sha256sum "$top/pyproject.toml")"
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        say "installing Python packages into $venv"
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$top$extra" >&2
        printf '%s' "$wanted" >"$stamp"
    fi
    # Where PYTHONDONTWRITEBYTECODE is set each start would compile the program anew.
    "$venv/bin/python" -m compileall -q "$top/src"
}
