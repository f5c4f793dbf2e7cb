#!/bin/sh
# Installs the Debian packages that building and testing need; does nothing when they are there.
# Shared by tests/run.sh and the demonstration. Usage: tests/install-deps.sh [extra package]...
set -eu

packages="gcc make cmake pkg-config libopenblas-dev liblmdb-dev libxxhash-dev libcmocka-dev libpng-dev spin"
# What tests of Python, top, man pages, completion and packages would be skipped without.
packages="$packages python3-numpy tmux groff-base zsh dpkg-dev"
missing=""
for package in $packages "$@"; do
    # pkg-config is pkgconf-provided on some releases; the command is what counts.
    if [ "$package" = pkg-config ] && command -v pkg-config >/dev/null 2>&1; then
        continue
    fi
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    if [ "$status" != installed ]; then
        missing="$missing $package"
    fi
done
if [ -z "$missing" ]; then
    exit 0
fi

sudo=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "install-deps: not root and no sudo; please install:$missing" >&2
        exit 1
    fi
    sudo=sudo
fi
echo "install-deps: installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
{
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
} >&2
