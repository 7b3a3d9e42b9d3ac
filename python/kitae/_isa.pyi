"""
Which instruction sets of this build the CPU can run.
"""

from __future__ import annotations

__all__: list[str] = ["supported"]

def supported() -> list:
    """
    Names of the variants that this machine runs, the best one last.
    """
