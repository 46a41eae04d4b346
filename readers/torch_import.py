"""torch, or a clear word on how to have it. Whatever needs torch imports this first."""

from __future__ import annotations

from snapengine.errors import UsageError

try:
    import torch
except ImportError as missing:
    raise UsageError(
        f"torch is not installed ({missing}). Run `pip install 'snapengine[torch]'`; on a machine without a "
        "GPU take torch from https://download.pytorch.org/whl/cpu, which is much smaller."
    ) from missing

__all__ = ["torch"]
