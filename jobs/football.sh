#!/usr/bin/env bash
# Builds the wheel of Google Research Football (gfootball, Apache-2.0) and installs it into this Python's environment.
#   make football            or: jobs/football.sh [FOLDER]
# FOLDER keeps the wheel (default: ~/.cache/sde_harl/wheels). Where it is there already, nothing is compiled. The engine
# takes 5 to 15 minutes and 1.6 GB of memory for each compiler; JOBS=n limits their number (default 1).
set -euo pipefail

VERSION=2.10.2
NEEDS=(cmake g++ make libgl-dev libegl-dev libsdl2-dev libsdl2-image-dev libsdl2-ttf-dev libsdl2-gfx-dev
    libboost-python-dev libboost-thread-dev libboost-system-dev libboost-filesystem-dev)
folder=${1:-$HOME/.cache/sde_harl/wheels}
python=$(command -v python)
# A wheel is of one Python: cp311 in its name.
tag=$(python -c 'import sys; print(f"cp{sys.version_info[0]}{sys.version_info[1]}")')

wheel() {
    find "$folder" -name "gfootball-$VERSION-$tag-*.whl" -print -quit 2>/dev/null
}

missing() {
    for tool in cmake g++ make; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    for header in SDL2/SDL.h SDL2/SDL_image.h SDL2/SDL_ttf.h SDL2/SDL2_gfxPrimitives.h boost/python.hpp GL/gl.h; do
        [ -e "/usr/include/$header" ] || [ -e "/usr/local/include/$header" ] || echo "$header"
    done
}

build() {
    local absent
    absent=$(missing | paste -sd' ')
    if [ -n "$absent" ]; then
        echo "error: the engine of football can't be built without: $absent" >&2
        echo "Debian: apt-get install -y --no-install-recommends ${NEEDS[*]}" >&2
        exit 2
    fi
    mkdir -p "$folder"
    echo "building gfootball $VERSION into $folder: 5 to 15 minutes, once"
    local work
    work=$(mktemp -d)
    # The folder's name now: the variable is gone when the trap runs.
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    # An environment of its own: its setup wants a setuptools that is too old for us.
    "$python" -m venv "$work/venv"
    # Its build script calls `python3`, and asks it for psutil.
    export PATH="$work/venv/bin:$PATH"
    pip install -q 'setuptools<70' wheel psutil numpy==1.26.4
    limit_compilers "$work/venv/bin"
    pip wheel -q --no-build-isolation --no-deps -w "$work" "gfootball==$VERSION"
    # Renamed when it is complete: a wheel that was cut short must not be found.
    mv "$work"/gfootball-*.whl "$folder/"
}

limit_compilers() {
    # Its build script starts a compiler for each processor, whatever it is asked.
    printf '#!/bin/sh\nexec %s "$@" -j %s\n' "$(command -v make)" "${JOBS:-1}" > "$1/make"
    chmod +x "$1/make"
}

[ -n "$(wheel)" ] || build
# It declares neither six nor the newest gym that it works with.
"$python" -m pip install -q gym==0.25.2 'opencv-python-headless<4.12' absl-py six psutil
"$python" -m pip install -q --no-deps "$(wheel)"
"$python" -c 'import gfootball.env' >/dev/null 2>&1 || { echo 'error: gfootball is installed, but fails' >&2; exit 1; }
echo "gfootball $VERSION is installed: python -m sde_harl.run configs/football.yaml"
