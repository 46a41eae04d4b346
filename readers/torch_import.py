"""torch, or a clear word on how to have it. Whatever needs torch imports this first."""

from __future__ import annotations

from snapengine.errors import UsageError

try:
    import torch
except ImportError as missing:
    raise UsageError(
        f"torch is not installed ({missing}). Run `pip install 'snapengine[torch]'`; on a machine without a "
        "GPU torch's own build for CPUs is much smaller."
    ) from missing

__all__ = ["torch"]
