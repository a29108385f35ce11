"""The link between rank 0 and the executors; the only room that imports mpi4py."""
