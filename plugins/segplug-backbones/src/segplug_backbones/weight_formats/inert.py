"""Stand-ins for the classes and functions that pickled checkpoints refer to.

A stand-in has the name of what it replaces and keeps the values at most: nothing is imported, and no code of the
replaced class runs. `to_plain` replaces the stand-ins in what was read by plain values, and removes the others.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch

_DTYPE = re.compile(r"[biuf][1248]|[SU]\d{1,5}")
"""Element types that are kept: bool, integers, floats and text."""


class Dropped:
    """Accepts any arguments and state, and discards them."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **more: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class Record(Dropped):
    """An object whose attributes are kept, such as an ``argparse.Namespace``."""

    attributes: Any = None

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class Dictionary(Dropped):
    """A subclass of dict: becomes an OrderedDict, which torch's safe unpickler fills."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        return OrderedDict(next((each for each in arguments if isinstance(each, dict)), {}))


class Sequence(Dropped):
    """A sequence or a set: becomes a list."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        return list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []


class PathText(Dropped):
    """A path: becomes a string."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        return str(PurePosixPath(*map(str, arguments)))


class Bytes(Dropped):
    """``_codecs.encode``, by which protocol 2 writes bytes, and ``bytes``, by which it writes none."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        return arguments[0].encode("latin-1") if arguments and isinstance(arguments[0], str) else b""


class DType(Dropped):
    """``numpy.dtype``: a code such as ``f8``, and the byte order in its state."""

    code = ""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.code = arguments[0] if arguments and isinstance(arguments[0], str) else ""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.code = ">" + self.code

    def read(self, content: Any) -> np.ndarray | None:
        """Return the numbers in some bytes; None for other types, or when the size does not fit."""
        if not isinstance(content, bytes | str) or not _DTYPE.fullmatch(self.code.removeprefix(">")):
            return None
        content = content.encode("latin-1", "replace") if isinstance(content, str) else content
        dtype = np.dtype(self.code)
        return np.frombuffer(content, dtype) if dtype.itemsize and len(content) % dtype.itemsize == 0 else None


class Scalar(Dropped):
    """A number of NumPy, such as ``float64(0.5)``."""

    dtype: Any = None
    content: Any = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.dtype, self.content = (*arguments, None, None)[:2]

    def plain(self) -> Any:
        values = self.dtype.read(self.content) if isinstance(self.dtype, DType) else None
        return self if values is None or len(values) != 1 else values[0].item()


class Array(Dropped):
    """An array of NumPy; its state is (version, shape, dtype, is Fortran order, content)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self) -> Any:
        """Return the array; this stand-in itself when it holds objects, or when its size is not that of its shape."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return self
        _, shape, dtype, fortran, content = self.state
        values = dtype.read(content) if isinstance(dtype, DType) else None
        whole = isinstance(shape, tuple) and all(isinstance(side, int) and side >= 0 for side in shape)
        if values is None or not whole or len(values) != np.prod(shape, dtype=object):
            return self
        return values.reshape(shape, order="F" if fortran else "C")


def _named(kind: type[Dropped], *names: str) -> dict[str, type[Dropped]]:
    return dict.fromkeys(names, kind)


_NUMPY = ("numpy.core", "numpy._core")
_NUMPY_TYPES = ("Bool", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float16", "Float32")
ARRAYS: dict[str, type[Dropped]] = {
    **_named(Bytes, "_codecs.encode", "builtins.bytes"),
    **_named(Dropped, "numpy.ndarray", *(f"numpy.dtypes.{name}DType" for name in (*_NUMPY_TYPES, "Float64"))),
    **_named(Dropped, "numpy.dtypes.StrDType", "numpy.dtypes.ObjectDType"),
    **_named(DType, "numpy.dtype"),
    **_named(Scalar, *(f"{core}.multiarray.scalar" for core in _NUMPY)),
    **_named(Array, *(f"{core}.multiarray._reconstruct" for core in _NUMPY)),
    **_named(Dropped, *(f"{core}.numeric._frombuffer" for core in _NUMPY)),
}
"""What the arrays and numbers of NumPy are made of."""

_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_BUILTINS = ("getattr", "list", "dict", "int", "float", "str", "bool", "tuple", "type", "slice", "range", "object")
OBJECTS: dict[str, type[Dropped]] = {
    **ARRAYS,
    **_named(Dropped, "mmengine.logging.history_buffer.HistoryBuffer"),  # refers to its methods by getattr
    **_named(Dropped, *(f"builtins.{name}" for name in _BUILTINS)),  # factories of a defaultdict, among others
    **_named(Dictionary, "mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict", "addict.addict.Dict"),
    **_named(Dictionary, "collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode"),
    **_named(Dictionary, "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode"),
    **_named(Dictionary, *(f"{name}.utilities.parsing.AttributeDict" for name in ("pytorch_lightning", "lightning"))),
    **_named(Dictionary, "lightning.fabric.utilities.data.AttributeDict"),
    **_named(Sequence, "collections.deque", "builtins.frozenset"),
    **_named(Record, "argparse.Namespace", "types.SimpleNamespace"),
    **_named(PathText, *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS)),
    **_named(Dropped, *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta"))),
    **_named(Dropped, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    **_named(Dropped, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
}
"""What checkpoints of other tools are known to hold besides tensors and plain values."""


def stand_ins(table: dict[str, type[Dropped]]) -> dict[str, type[Dropped]]:
    """Return a class for each name, which torch's safe unpickler finds by its module and qualified name."""
    found = {}
    for path, kind in table.items():
        module, name = path.rsplit(".", 1)
        found[path] = type(name, (kind,), {"__module__": module, "__qualname__": name})
    return found


def to_plain(value: Any, arrays: type = torch.Tensor) -> Any:
    """Return plain values; entries that are still stand-ins are removed, a state dict keeps its ``_metadata``.

    Args:
        value: What an unpickler returned.
        arrays: What arrays become, tensors or lists (``list``); those in ``meta`` always become lists.
    """
    return _Plain().of(value, arrays)


class _Plain:
    """Converts each object once, as a pickle may refer to one many times, or to an object from within itself."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, Any]] = {}  # also keeps the object, so that its id stays its own

    def of(self, value: Any, arrays: type) -> Any:
        if id(value) not in self.done:
            result: Any = [] if type(value) is list else value
            self.done[id(value)] = value, result
            if type(value) is list:
                result += self._kept(value, arrays)
            else:
                self.done[id(value)] = value, self._converted(value, arrays)
        return self.done[id(value)][1]

    def _kept(self, values: Any, arrays: type) -> list[Any]:
        return [entry for entry in (self.of(each, arrays) for each in values) if not isinstance(entry, Dropped)]

    def _converted(self, value: Any, arrays: type) -> Any:
        if isinstance(value, Scalar | Array):
            value = value.plain()
            return _of_array(value, arrays) if isinstance(value, np.ndarray) else value
        if isinstance(value, Record):
            return self.of(value.attributes, arrays)
        if type(value) is tuple:
            return tuple(self._kept(value, arrays))
        if isinstance(value, dict):
            entries = [
                (self.of(key, list), self.of(each, list if key == "meta" else arrays)) for key, each in value.items()
            ]
            value.clear()
            value.update(pair for pair in entries if not any(isinstance(part, Dropped) for part in pair))
        return value


def _of_array(array: np.ndarray, arrays: type) -> Any:
    if arrays is list or array.dtype.kind in "SU":
        return array.tolist()
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # a copy: the bytes are read-only
