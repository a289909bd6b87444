"""Commands, nothing else: each reads its arguments, calls one function and prints."""

from raypo.cli.app import main

__all__ = ["main"]
