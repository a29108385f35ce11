"""The type of command-line options that count something."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Returns a whole number from 1 on. argparse prints the error for anything else."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)
