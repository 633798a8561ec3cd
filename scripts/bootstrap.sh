# Sourced by the other scripts: brings a bare Debian or Ubuntu machine to where ringfence runs from this checkout.
# It installs only what is missing, and says what it installs.
# shellcheck shell=bash

top=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
venv=$(realpath -m "${RINGFENCE_VENV:-$top/.venv}")

say() { printf '== %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# ensure_packages PACKAGE... : apt packages, those that are not there yet
ensure_packages() {
    local missing=() package log
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "not a Debian or Ubuntu machine: install by hand what these packages hold: ${missing[*]}"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        die "neither root nor sudo: have root run: apt-get install ${missing[*]}"
    say "installing system packages: ${missing[*]}"
    log=$(mktemp)
    # A source of packages that fails is passed over; whether all is there, the installation tells.
    if ! {
        apt_get update
        apt_get install -y --no-install-recommends "${missing[@]}"
    } >"$log" 2>&1; then
        cat "$log" >&2
        rm "$log"
        die "apt-get could not install them: check the network, and the sources below /etc/apt"
    fi
    rm "$log"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

# find_python : prints a Python that can make virtual environments; Debian's own is without ensurepip at first
find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

ensure_python() {
    local version=none
    python=$(find_python) && return
    if ! /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info >= (3, 11))' 2>/dev/null; then
        ensure_packages python3 python3-venv
        hash -r
        python=$(find_python) && return
    fi
    version=$(/usr/bin/python3 --version 2>&1) || version="no Python"
    die "Python 3.11 or newer is needed, and this machine has $version. Debian 12 and Ubuntu 24.04 have one;" \
        "on Ubuntu 22.04, install python3.11-venv"
}

# ensure_venv EXTRA : a virtual environment with this checkout and its dependencies in it
ensure_venv() {
    local extra=$1 stamp=$venv/installed wanted found
    wanted="$top $(sha256sum <"$top/pyproject.toml")"
    found=$(cat "$stamp" 2>/dev/null) || found=
    if [[ $found != "$wanted$extra" && $found != "${wanted}[dev]" ]] ||
        ! "$venv/bin/python" -I -c 'import ringfence' 2>/dev/null; then
        ensure_python
        say "installing Python packages into $venv"
        # One that was made by a Python that has gone since, or for another place, is of no use.
        if [[ $found != "$top "* ]] || ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
            [ -e "$stamp" ] || [ -z "$(ls -A "$venv" 2>/dev/null)" ] ||
                die "it was not made by this script: remove it, or set RINGFENCE_VENV to another directory"
            rm -rf "$venv"
            mkdir -p "$venv"
            printf '%s ' "$top" >"$stamp"
            "$python" -m venv "$venv"
        fi
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$top$extra" >&2 ||
            die "pip could not install them: check the network, and pip's own settings behind a proxy or a mirror"
        printf '%s' "$wanted$extra" >"$stamp"
    fi
    # Where PYTHONDONTWRITEBYTECODE is set each start would compile the program anew.
    "$venv/bin/python" -m compileall -q "$top/src" >/dev/null || true
}
