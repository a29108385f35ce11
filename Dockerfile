# A run in one container, all its ranks included. From the checkout:
#   docker build -t sde_harl .
#   mkdir -p results
#   docker run --user "$(id -u):$(id -g)" -v "$PWD/results:/work/results" sde_harl \
#       mpirun -np 9 sde-harl run smac train.resume=auto
#   docker stop --time 120 CONTAINER      # it saves everything first; the same docker run goes on
FROM python:3.11-slim-bookworm

# The C extensions are compiled here. ssh is what mpirun looks for at its start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev openssh-client \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sde_harl
COPY pyproject.toml setup.py README.md LICENSE ./
COPY configs configs
COPY sde_harl sde_harl
# PyPI's torch brings 3 GB of CUDA. For a GPU, leave the index out.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu '.[mpi,smax,mpe]'

# More ranks than cores are welcome, and none is held to one core.
ENV PRTE_MCA_rmaps_default_mapping_policy=slot:OVERSUBSCRIBE
ENV PRTE_MCA_hwloc_default_binding_policy=none

# Whoever --user names has a home to write to. Without any, Open MPI does not start.
ENV HOME=/tmp
RUN useradd user
USER user
WORKDIR /work
# mpirun hands it on, and rank 0 saves. SIGTERM would have mpirun kill its ranks.
STOPSIGNAL SIGUSR1
CMD ["sde-harl", "--help"]
