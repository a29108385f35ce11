"""The one exception a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: printed as one line, without a traceback, and the job ends with exit code 2."""
