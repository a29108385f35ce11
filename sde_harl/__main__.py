"""`python -m sde_harl COMMAND ...` is the same as `sde-harl COMMAND ...`."""

from sde_harl.cli.main import entry

entry()
