"""Tells a cancellation of this task from one that what it awaited ended in."""

from __future__ import annotations

import math

import anyio


def is_cancelled() -> bool:
    """Whether the current task is being cancelled: else a cancelled exception is what a cancelled future gave it."""
    return anyio.current_effective_deadline() == -math.inf
