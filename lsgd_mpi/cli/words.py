"""What subcommands share: reading numbers, and printing for a reader who may leave early."""

from __future__ import annotations

import argparse
import os
import sys


def whole_number(text: str) -> int:
    """A whole number from the command line, 0 or more."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"a whole number, 0 or more, not {text!r}")
    return int(text)


def print_for_reader(text: str, end: str = "\n") -> None:
    """Print, and be content if the reader, `head` perhaps, has seen enough."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
