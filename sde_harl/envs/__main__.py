"""`python -m sde_harl.envs ...` is the same as `sde-harl envs ...`."""

import sys

from sde_harl.cli.main import entry

sys.argv.insert(1, "envs")
entry()
