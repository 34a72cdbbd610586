# SPDX-License-Identifier: Apache-2.0
"""Layouts of C types as dtypes of numpy, for maps with many rows."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from poise.kernel.btf import Array, Bytes, Layout, Scalar, Struct

Records = NDArray[Any]
"""A one-dimensional structured array, or one of numbers."""

_ORDERS: Final = {"=": "=", "!": ">"}


def dtype_of(layout: Layout) -> np.dtype[Any]:
    """Return the dtype of values that lie in memory like this; members keep their names and places."""
    match layout:
        case Scalar(_, form):
            return np.dtype(_ORDERS[form[0]] + form[1:])
        case Bytes(size):
            return np.dtype(("u1", (size,)))
        case Array(size, element):
            return np.dtype((dtype_of(element), (size // element.size,)))
        case Struct(_, size, members):
            return np.dtype(
                {
                    "names": list(members),
                    "formats": [dtype_of(member) for _, member in members.values()],
                    "offsets": [offset for offset, _ in members.values()],
                    "itemsize": size,
                }
            )
    msg = f"{layout} has no dtype"
    raise TypeError(msg)


def widened(dtype: np.dtype[Any], size: int) -> np.dtype[Any]:
    """Return the dtype of the same values, each followed by padding up to this size."""
    if dtype.itemsize == size:
        return dtype
    return np.dtype({"names": ["value"], "formats": [dtype], "offsets": [0], "itemsize": size})


def converted(records: Records, dtype: np.dtype[Any], *, partly: bool = False) -> Records:
    """Return records in another layout: members of the same name have the same value, the others are zero.

    partly: leave out members that the other layout lacks; otherwise that is a KeyError.
    """
    if records.dtype == dtype:
        return records
    found = np.zeros(records.shape, dtype)
    if dtype.names is None or records.dtype.names is None:
        found[...] = records
        return found
    for name in records.dtype.names:
        if name in dtype.names:
            found[name] = _fitted(records[name], found[name].shape, partly=partly)
        elif not partly:
            msg = f"the layout has no member {name}"
            raise KeyError(msg)
    return found


def _fitted(values: Records, shape: tuple[int, ...], *, partly: bool) -> Records:
    """Return arrays of another length, cut off or filled up with zeros, where that is wanted."""
    if not partly or values.shape == shape:
        return values
    fitted = np.zeros(shape, values.dtype)
    common = tuple(slice(min(one, other)) for one, other in zip(values.shape, shape, strict=True))
    fitted[common] = values[common]
    return fitted


def octets(records: Records) -> NDArray[np.uint8]:
    """Return the bytes of each record, or of each row of records: [n, size]."""
    packed = np.ascontiguousarray(records)
    size = packed.dtype.itemsize * int(np.prod(packed.shape[1:]))
    return packed.view(np.uint8).reshape(len(packed), size)
