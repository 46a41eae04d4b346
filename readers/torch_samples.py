"""Decoded samples as bytes and back: tensors, arrays and plain values, and nothing that could run.

Pickle, and with it `torch.save`, may run code when it is read: `weights_only=True` had a hole before torch
2.6 (CVE-2025-32434), and refuses NumPy's arrays. `.npy` knows neither bfloat16 nor trees. So the tree is
JSON, and each array its raw bytes with dtype and shape, as in safetensors.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import numpy as np

from readers.torch_import import torch
from snapengine.errors import UsageError

FORMAT: Final = 1
_ALIGNED: Final = 64
_LENGTH: Final = 8
_PLAIN: Final = (type(None), bool, int, float, str)
_KINDS: Final = "biufcmMSU"
"""Of NumPy's dtypes, those that hold values themselves."""

CAN_BE: Final = (
    "tensors (dense, on the CPU, without gradients), NumPy arrays and scalars, numbers, text, bytes and "
    "None, in lists, tuples and dicts"
)


def encode_sample(sample: Any) -> bytes:
    """The bytes of a sample. Raises `UsageError` for one that they could not give back as it is."""
    writing = _Writing()
    tree = writing.tree(sample)
    head = json.dumps({"tree": tree, "arrays": writing.arrays}, separators=(",", ":")).encode()
    start = _padded(_LENGTH + len(head))
    parts = [len(head).to_bytes(_LENGTH, "little"), head, bytes(start - _LENGTH - len(head))]
    for data in writing.buffers:
        parts += [data, bytes(_padded(len(data)) - len(data))]
    return b"".join(parts)


def decode_sample(data: bytes | memoryview) -> Any:
    """The sample; its tensors and arrays may be written to. Raises `ValueError` for what is none."""
    buffer = bytearray(data)
    try:
        length = int.from_bytes(buffer[:_LENGTH], "little")
        head = json.loads(buffer[_LENGTH : _LENGTH + length])
        return _Reading(buffer, _padded(_LENGTH + length), head["arrays"]).value(head["tree"])
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise ValueError(f"not a sample: {error!r}") from error


def _padded(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED


class _Writing:
    def __init__(self) -> None:
        self.arrays: list[list[Any]] = []
        """Of each its dtype, its shape, and where it begins after the head."""
        self.buffers: list[bytes] = []
        self._end = 0

    def tree(self, value: Any) -> Any:
        kind = type(value)
        if kind is str and json.loads(json.dumps(value)) != value:
            raise _unkeepable(value, "with the two halves of one character apart")
        if kind in _PLAIN:
            return ["v", value]
        if kind in (list, tuple):
            return ["l" if kind is list else "u", [self.tree(one) for one in value]]
        if kind is dict:
            if odd := next((key for key in value if type(key) not in _PLAIN), None):
                raise _unkeepable(odd, "as a key of a dict")
            return ["d", [[self.tree(key), self.tree(one)] for key, one in value.items()]]
        if kind is bytes:
            return ["b", self._add("bytes", [len(value)], value)]
        if kind is torch.Tensor:
            return ["t", self._tensor(value)]
        if kind is np.ndarray or isinstance(value, np.generic):
            array = np.asarray(value)
            if array.dtype.kind not in _KINDS:
                raise _unkeepable(value, f"of dtype {array.dtype}")
            found = self._add(array.dtype.str, list(array.shape), array.tobytes())
            return ["a" if kind is np.ndarray else "s", found]
        raise _unkeepable(value, "")

    def _tensor(self, tensor: Any) -> int:
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not dense or tensor.requires_grad:
            raise _unkeepable(
                tensor, f"({tensor.layout}, {tensor.device}, requires_grad={tensor.requires_grad})"
            )
        flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return self._add(str(tensor.dtype), list(tensor.shape), raw)

    def _add(self, dtype: str, shape: list[int], data: bytes) -> int:
        self.arrays.append([dtype, shape, self._end])
        self.buffers.append(data)
        self._end += _padded(len(data))
        return len(self.arrays) - 1


class _Reading:
    def __init__(self, buffer: bytearray, start: int, arrays: list[list[Any]]) -> None:
        self._buffer = buffer
        self._start = start
        self._arrays = arrays

    def value(self, node: list[Any]) -> Any:
        kind, told = node
        if kind == "v":
            return told
        if kind in {"l", "u"}:
            found = [self.value(one) for one in told]
            return found if kind == "l" else tuple(found)
        if kind == "d":
            return {self.value(key): self.value(one) for key, one in told}
        dtype, shape, begin = self._arrays[told]
        offset = self._start + begin
        if kind == "b":
            return bytes(self._buffer[offset : offset + shape[0]])
        if kind == "t":
            return self._tensor(dtype, shape, offset)
        array = self._array(np.dtype(dtype), shape, offset)
        return array if kind == "a" else array[()]

    def _tensor(self, name: str, shape: list[int], offset: int) -> Any:
        dtype = getattr(torch, name.removeprefix("torch."))
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._buffer, dtype=dtype, count=count, offset=offset).reshape(shape)

    def _array(self, dtype: np.dtype[Any], shape: list[int], offset: int) -> Any:
        if dtype.kind not in _KINDS:
            raise ValueError(f"not a sample: {dtype} holds no values")
        count = math.prod(shape)
        if not count * dtype.itemsize:
            return np.zeros(shape, dtype)
        return np.frombuffer(self._buffer, dtype, count, offset).reshape(shape)


def _unkeepable(value: Any, what: str) -> UsageError:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return UsageError(
        f"A sample holds a {name} {what}".rstrip()
        + f", which a tensor snapshot cannot keep. It can be {CAN_BE}. "
        "Have `decode` return these, or leave `cache` off."
    )
