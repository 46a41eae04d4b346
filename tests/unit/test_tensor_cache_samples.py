"""Samples as bytes: each comes back as it was, in value, type, dtype and shape, or is refused by name."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections import namedtuple
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapengine.errors import UsageError
from tests.torch_house import need_torch

need_torch()

import torch  # noqa: E402  # only where it is installed

from readers.torch_samples import decode_sample, encode_sample  # noqa: E402  # torch, which they load, may not be there

Point = namedtuple("Point", "x y")  # the plain kind, as users have it


def same(one: Any, other: Any) -> bool:
    """Equal in value, type, dtype and shape, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return bool(alike and torch.equal(raw(one), raw(other)))
    if isinstance(one, np.ndarray | np.generic):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return bool(alike and one.tobytes() == other.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return bool(one == other) or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def raw(tensor: Any) -> Any:
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat


# What can be kept

TENSORS = [
    torch.arange(6).reshape(2, 3),
    torch.arange(6).reshape(2, 3).T,
    torch.tensor(1.5),
    torch.tensor([]),
    torch.empty(0, 3, dtype=torch.int16),
    torch.tensor([True, False]),
    torch.tensor([1.5, -2], dtype=torch.bfloat16),
    torch.tensor([1.5, -2]).to(torch.float8_e4m3fn),
    torch.tensor([1 + 2j]).conj(),
    torch.arange(10)[::3],
    torch.zeros(2, 2, dtype=torch.uint16),
]
ARRAYS = [
    np.arange(6, dtype=">i2").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.float32(2.5),
    np.array("text"),
    np.array(["a", "bcd"]),
    np.array([b"x", b"yz"]),
    np.array(["2026-11-20"], "datetime64[D]"),
    np.zeros((0, 4)),
    np.bool_(True),
    np.array([""]),
]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.sampled_from([*TENSORS, *ARRAYS]),
)
keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
samples = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=8,
)


@given(samples)
def test_a_sample_comes_back_as_it_was(sample: Any) -> None:
    assert same(decode_sample(encode_sample(sample)), sample)


@pytest.mark.parametrize("sample", [*TENSORS, *ARRAYS, "\ud800", 2**80, float("inf"), -0.0])
def test_each_kind_of_value_comes_back_as_it_was(sample: Any) -> None:
    assert same(decode_sample(encode_sample({"x": [sample]})), {"x": [sample]})


def test_what_comes_back_may_be_written_to_and_is_nobody_else_s() -> None:
    data = encode_sample([torch.zeros(3), np.zeros(3)])
    tensor, array = decode_sample(data)
    tensor += 1
    array += 1
    again, other = decode_sample(data)
    assert again.sum() == other.sum() == 0


class Flag(int):
    """A number with more to it."""


@pytest.mark.parametrize(
    "sample",
    [
        object(),
        Point(1, 2),
        {1, 2},
        Flag(1),
        {(1, 2): 3},
        bytearray(b"x"),
        "\ud83d\ude00",
        np.array([object()], dtype=object),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        np.ma.array([1], mask=[True]),
        torch.zeros(2, requires_grad=True),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.nn.Parameter(torch.zeros(1)),
        torch.float32,
    ],
    ids=lambda sample: re.sub(r" at 0x\w+", "", ascii(sample)),  # the same in each process
)
def test_what_would_not_come_back_as_it_was_is_refused_by_name(sample: Any) -> None:
    with pytest.raises(UsageError, match="which a tensor snapshot cannot keep"):
        encode_sample({"x": sample})


@pytest.mark.parametrize("cut", [0, 1, 8, 60, 100])
def test_half_a_sample_is_none(cut: int) -> None:
    with pytest.raises(ValueError):
        decode_sample(encode_sample([torch.arange(100), "text"])[:cut])


def test_nothing_that_could_run_is_read() -> None:
    with pytest.raises(ValueError):
        decode_sample(pickle.dumps(partial(os.getcwd)))
    evil = encode_sample([torch.zeros(1)]).replace(b'"torch.float32"', b'"torch.load    "')
    with pytest.raises(ValueError):
        decode_sample(evil)
