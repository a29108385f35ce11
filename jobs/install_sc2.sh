#!/usr/bin/env bash
# Installs StarCraft II for Linux, the maps of SMAC and SMACv2, and both clients. It can be run again: what is there stays,
# and a download goes on where it stopped.
#
#   jobs/install_sc2.sh --accept-license [--version 4.10|4.6.2] [--dry-run]
#
# SC2PATH is where the game goes (~/StarCraftII), PYTHON the environment of the clients (.venv/bin/python).
# docs/starcraft.md says which version to choose.
set -euo pipefail

LICENSE=https://blzdistsc2-a.akamaihd.net/AI_AND_MACHINE_LEARNING_LICENSE.html
GAMES=https://blzdistsc2-a.akamaihd.net/Linux
# A commit is its own checksum.
SMAC=d6aab33f76abc3849c50463a8592a84f59a5ef84
SMACV2=577ab5a2cff2391f8df582da5731ea9cd6adf3c6

version=4.10
accepted=
dry=
while (($#)); do
    case $1 in
        --accept-license) accepted=yes ;;
        --dry-run) dry=yes ;;
        --version)
            version=${2-}
            shift
            ;;
        *)
            sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
            exit 2
            ;;
    esac
    shift
done
case $version in
    # Blizzard publishes no checksums. This one is from public installers; without one, the first download's is kept.
    4.10) archive=SC2.4.10.zip build=75689 sum=1052f249f30a242bf5e17cc3315324919f9689307ca6dbcdb30bb41ea3004884 ;;
    4.6.2) archive=SC2.4.6.2.69232.zip build=69232 sum= ;;
    *)
        echo "--version: expected 4.10 or 4.6.2, got $version" >&2
        exit 2
        ;;
esac
game=${SC2PATH:-$HOME/StarCraftII}
python=${PYTHON:-.venv/bin/python}
downloads=$game/downloads

echo "StarCraft II $version is under Blizzard's AI and Machine Learning License: $LICENSE"
echo "SMAC and SMACv2 are under the MIT license, pysc2 is under the Apache License 2.0."
if [[ ! $accepted ]]; then
    echo "Read it, and run this again with --accept-license. Nothing was done." >&2
    exit 2
fi

run() { # prints a command in a dry run, else runs it
    if [[ $dry ]]; then
        echo "  $*"
    else
        "$@"
    fi
}

check() { # FILE SUM: a file that is not what it should be is removed, so that the next run loads it again
    local found
    found=$(sha256sum "$1" | cut -d' ' -f1)
    local expected=$2
    if [[ ! $expected ]]; then
        [[ -f $1.sha256 ]] || echo "$found" >"$1.sha256"
        expected=$(cat "$1.sha256")
    fi
    if [[ $found != "$expected" ]]; then
        rm "$1"
        echo "$1: expected the SHA-256 $expected, got $found; it was removed" >&2
        exit 1
    fi
}

source_of() { # NAME COMMIT: oxwhirl's repository at that commit
    local folder=$downloads/$1
    run git init --quiet "$folder"
    run git -C "$folder" fetch --quiet --depth 1 "https://github.com/oxwhirl/$1.git" "$2"
    run git -C "$folder" checkout --quiet "$2"
}

run mkdir -p "$downloads" "$game/Maps/SMAC_Maps"

# The folder "unpacked" is removed last: where it is, copying was interrupted.
if [[ -x $game/Versions/Base$build/SC2_x64 && ! -e $downloads/unpacked ]]; then
    echo "The game: $version is at $game already."
else
    echo "The game, several GB:"
    if [[ ! -f $downloads/$archive ]]; then
        run curl --fail --location --continue-at - --output "$downloads/$archive.part" "$GAMES/$archive"
        run mv "$downloads/$archive.part" "$downloads/$archive"
    fi
    run check "$downloads/$archive" "$sum"
    # The password says that you agree to the license.
    run unzip -q -o -P iagreetotheeula "$downloads/$archive" -d "$downloads/unpacked"
    run cp -a "$downloads/unpacked/StarCraftII/." "$game"
    run rm "$downloads/$archive"
    run rm -r "$downloads/unpacked"
fi

echo "The clients and their maps:"
source_of smac "$SMAC"
source_of smacv2 "$SMACV2"
# SMAC's last: both have its maps, and its own are the ones that its results are of.
for client in smacv2 smac; do
    run cp -a "$downloads/$client/$client/env/starcraft2/maps/SMAC_Maps/." "$game/Maps/SMAC_Maps"
done
# Without their dependencies: the clients ask for an old protobuf that nothing else here works with. A newer one fits.
run "$python" -m pip install --no-deps pysc2==4.0.0 "$downloads/smac" "$downloads/smacv2"
run "$python" -m pip install absl-py portpicker websocket-client "protobuf>=6.33,<8" pys2clientprotocol==1.0.2

echo "Done. Where runs are started, set SC2PATH=$game. The main job on it is configs/smac_starcraft.yaml."
