"""CT, MR and other volumes, slice by slice or whole: NIfTI, numpy and pickle files.

    VolumeDataset(images="imagesTr", masks="labelsTr", classes=["background", "tumour"], window=[-125, 275])

Volumes are (channels, Z, Y, X). NIfTI files are read as (X, Y, Z) or (X, Y, Z, channels), others as (Z, Y, X) or
(channels, Z, Y, X), as by MMSegmentation's LoadBiomedicalImageFromFile. NIfTI needs nibabel:
``pip install "segplug-datasets[medical]"``.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkernel.annotations import NonNegativeInt
from segkernel.errors import DataError, UsageError
from segkernel.image import refuse_giant
from segkernel.labels import IGNORE, Color
from segkernel.sample import LabelMap, Sample
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labelled import Labelled
from segplug_datasets.left_out import warn_once
from segplug_datasets.listing import find_files, require_files, resolve
from segplug_datasets.optional_deps import require_package

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".npy", ".npz", ".pkl", ".pickle")

Axis = Literal["z", "y", "x"]
"""Axis along which volumes are sliced; z yields axial slices."""

_AXES: dict[Axis, int] = {"z": 1, "y": 2, "x": 3}


_DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
_NIFTI_USE = "reading NIfTI files"


# ---------------------------------------------------------------- reading


def read_volume(path: str | Path, key: str = "") -> np.ndarray:
    """Read a volume as (channels, Z, Y, X), in the file's dtype.

    Args:
        path: A file with one of `SUFFIXES`.
        key: Name of the array in an archive of several (``.npz``), or in a pickled mapping.

    Raises:
        DataError: When it is missing, damaged, or not a volume.
        ExtraMissingError: When it is NIfTI and nibabel is missing.
    """
    name = str(path).lower()
    try:
        if name.endswith(NIFTI):
            stored = _nibabel().load(path).dataobj
            refuse_giant(stored.shape, path)
            array = _channels_first(np.asanyarray(stored))
        else:
            array = _pick(_load(Path(path)), key, path)
    except FileNotFoundError:
        raise DataError("no such file", path) from None
    except _damaged(name) as error:
        raise DataError(f"not a volume, or a damaged one: {error}", path) from error
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.dtype.kind not in "buif":
        raise DataError(f"a volume must be numeric with 3 axes, or 4 with channels: {array.shape} {array.dtype}", path)
    return array


def nifti_from_bytes(data: bytes, name: str) -> np.ndarray:
    """Return the values of a NIfTI file in its own order (X, Y, Z), float64, scaled by the file's slope and intercept.

    Raises:
        DataError: When it is not a NIfTI file.
        ExtraMissingError: When nibabel is missing.
    """
    nibabel = _nibabel()
    try:
        return np.asarray(nibabel.Nifti1Image.from_bytes(data).get_fdata())
    except _damaged(".nii") as error:
        raise DataError(f"not a NIfTI file, or a damaged one: {error}", name) from error


def _nibabel() -> Any:
    return require_package("nibabel", "medical", _NIFTI_USE)


def _damaged(name: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that readers raise for damaged files of this name."""
    if not name.endswith(NIFTI):
        return _DAMAGED
    files, headers = (
        require_package(f"nibabel.{part}", "medical", _NIFTI_USE) for part in ("filebasedimages", "spatialimages")
    )
    return *_DAMAGED, files.ImageFileError, headers.HeaderDataError


def _channels_first(array: np.ndarray) -> np.ndarray:
    """Transpose (X, Y, Z) or (X, Y, Z, channels) to (channels, Z, Y, X)."""
    return array.T


def _load(path: Path) -> Any:
    if path.suffix.lower() in (".npy", ".npz"):
        return np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
    with open(path, "rb") as stream:
        try:
            return _ArraysOnly(stream).load()
        except (AttributeError, ImportError, IndexError, KeyError, MemoryError) as error:  # of damaged files
            raise pickle.UnpicklingError(repr(error)) from error


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays in lists and mappings only; a pickle of anything else could run code."""

    _allowed = ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer")

    def find_class(self, module: str, name: str) -> Any:
        of_numpy = module.split(".")[0] == "numpy" and name in self._allowed
        if of_numpy or (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"contains {module}.{name}: only arrays are read")


def _pick(content: Any, key: str, path: str | Path) -> np.ndarray:
    names = list(content.keys()) if hasattr(content, "keys") else None
    if names is None:
        return content if isinstance(content, np.ndarray) else np.asarray(content)
    if key not in names and len(names) != 1:
        raise DataError(f"contains {', '.join(map(repr, names[:8]))}: choose one with image_key or mask_key", path)
    return np.asarray(content[key if key in names else names[0]])


# ---------------------------------------------------------------- data sets


class Volumes(Labelled):
    """Slices of volumes, or whole volumes.

    A whole volume has the layout of the `BioMedical3D` transforms: an image (Y, X, Z * channels), slice by slice,
    labels (Y, X, Z), and ``meta["slices"]``.

    Args:
        files: (name, image file, label file or None) of each volume.
        labels: Meaning of the values in the label files.
        axis: Axis along which volumes are sliced.
        window: Lowest and highest intensity, mapped to 0 and 255, uint8; None keeps the file's values, float32.
        channels: Channels to read, counted from 0; all when None.
        context: Neighbouring slices on each side that become additional channels; at the ends the last is repeated.
        whole: Whether samples are volumes instead of slices.
        image_key: Name of the image in files of several arrays.
        mask_key: Name of the labels in files of several arrays.
        with_seg: Whether the image files contain the labels, as last channel or, in a file of several arrays, by
            ``mask_key``.

    Raises:
        UsageError: When arguments contradict each other.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, str, str | None]],
        labels: LabelSpec,
        axis: Axis = "z",
        window: Sequence[float] | None = None,
        channels: Sequence[NonNegativeInt] | None = None,
        context: NonNegativeInt = 0,
        whole: bool = False,
        image_key: str = "image",
        mask_key: str = "label",
        with_seg: bool = False,
    ) -> None:
        if axis not in _AXES:
            raise UsageError(f"axis must be z, y or x, not {axis!r}")
        if window is not None and not (len(window) == 2 and window[0] < window[1]):
            raise UsageError(f"window must be the lowest and the highest intensity, not {list(window)}")
        if context < 0:
            raise UsageError(f"context must be 0 or more slices, not {context}")
        self.labels, self._files, self._axis = labels, list(files), _AXES[axis]
        self._window, self._channels, self._context, self._whole = window, channels, context, whole
        self._image_key, self._mask_key, self._with_seg = image_key, mask_key, with_seg
        self._ends: np.ndarray | None = None
        self._held: tuple[int, np.ndarray, np.ndarray | None] | None = None

    @classmethod
    def image_reader(
        cls,
        axis: Axis = "z",
        window: Sequence[float] | None = None,
        channels: Sequence[int] | None = None,
        context: int = 0,
        image_key: str = "image",
    ) -> VolumeReader:
        """Return a reader of volumes as slices, as in the samples."""
        return VolumeReader(axis, window=window, channels=channels, context=context, image_key=image_key)

    def __len__(self) -> int:
        """Return the number of samples; the first call reads the size of each volume."""
        return len(self._files) if self._whole else int(self._offsets()[-1])

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        if self._whole:
            return self._sample(index, None)
        place = int(np.searchsorted(self._offsets(), index, side="right")) - 1
        return self._sample(place, index - int(self._offsets()[place]))

    def _sample(self, place: int, number: int | None) -> Sample:
        """Return one slice of a volume, or all of them."""
        name, path, mask_path = self._files[place]
        pixels, raw = self._read(place)
        slices = range(pixels.shape[self._axis]) if number is None else [number]
        sample = Sample(image=self._slices(pixels, slices), meta={"path": path, "name": name, "volume": name})
        sample.meta.update({"slices": len(slices)} if number is None else {"name": f"{name}/{number:04}"})
        if raw is not None:
            sample.meta["mask_path"] = mask_path or path
            planes = [self._encode(np.take(raw, one, self._axis - 1), mask_path or path) for one in slices]
            sample["seg"] = LabelMap(planes[0] if number is not None else np.stack(planes, 2))
        return sample

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}  # each worker reads its own volumes

    def _offsets(self) -> np.ndarray:
        if self._ends is None:
            lengths = [_shape(path, self._image_key)[self._axis] for _, path, _ in self._files]
            self._ends = np.concatenate([[0], np.cumsum(lengths)])
        return self._ends

    def _read(self, place: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a volume (channels, Z, Y, X) and its raw labels (Z, Y, X); the last one read is kept."""
        if self._held is None or self._held[0] != place:
            _, path, mask_path = self._files[place]
            pixels, raw = self._both(path, mask_path)
            if raw is not None and raw.shape != pixels.shape[1:]:
                message = f"labels of {raw.shape} for a volume of {pixels.shape[1:]}: {path}"
                raise DataError(message, mask_path or path)
            self._held = (place, self._chosen(pixels, path), raw)
        return self._held[1:]

    def _both(self, path: str, mask_path: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        pixels = read_volume(path, self._image_key)
        if mask_path is not None:
            raw = read_volume(mask_path, self._mask_key)
            if len(raw) > 1:
                raise DataError(f"labels must have one number per voxel, these have {len(raw)}", mask_path)
            return pixels, _aligned(path, mask_path, raw[0])
        if not self._with_seg:
            return pixels, None
        if path.lower().endswith((".npz", ".pkl", ".pickle")) and _holds(path, self._mask_key):
            return pixels, read_volume(path, self._mask_key)[0]
        if len(pixels) < 2:
            raise DataError("has one channel, which cannot be image and labels", path)
        return pixels[:-1], pixels[-1]

    def _chosen(self, pixels: np.ndarray, path: str) -> np.ndarray:
        if self._channels is None:
            return pixels
        if not all(0 <= channel < len(pixels) for channel in self._channels):
            raise DataError(
                f"has {len(pixels)} channels, but 'channels' is {list(self._channels)} (counted from 0)", path
            )
        return pixels[list(self._channels)]

    def _slices(self, pixels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
        """Return slices (height, width, slices * channels); each slice is stacked with its neighbours."""
        around = np.arange(-self._context, self._context + 1)
        places = (np.asarray(numbers)[:, None] + around).ravel().clip(0, pixels.shape[self._axis] - 1)
        planes = np.moveaxis(np.take(pixels, places, self._axis), self._axis, 0)
        stacked = planes.reshape(-1, *planes.shape[2:])  # (slices * channels, height, width)
        return np.ascontiguousarray(self._windowed(stacked).transpose(1, 2, 0))

    def _windowed(self, pixels: np.ndarray) -> np.ndarray:
        if self._window is None:
            return pixels.astype(np.float32)
        low, high = map(float, self._window)
        scaled = (np.nan_to_num(pixels.astype(np.float32), nan=low).clip(low, high) - low) * (255 / (high - low))
        return scaled.round().astype(np.uint8)

    def _encode(self, plane: np.ndarray, path: str) -> np.ndarray:
        if plane.dtype.kind == "f" and (np.rint(plane) != plane)[np.isfinite(plane)].any():
            raise DataError("labels must be whole numbers, these are not: is it an image?", path)
        try:
            return self.labels.encode(plane)
        except DataError as error:
            raise DataError(str(error), path) from None


_SAME_PLACE = 0.1  # voxels

_AFFINES = (
    "its affine differs from that of its image {0}: their voxels do not coincide\n"
    "    resample the labels to the image; if only their header is wrong, save them again with the image's affine: "
    "nibabel.Nifti1Image(labels.dataobj, image.affine)"
)


def _aligned(path: str, mask_path: str, raw: np.ndarray) -> np.ndarray:
    """Return NIfTI labels (Z, Y, X) reoriented to their image, by the affines of both.

    Raises:
        DataError: When their voxels do not coincide.
    """
    if not (path.lower().endswith(NIFTI) and mask_path.lower().endswith(NIFTI)):
        return raw
    nibabel = _nibabel()
    volume, labels = nibabel.load(path), nibabel.load(mask_path)
    if _same_place(volume, labels):
        return raw
    if np.allclose(labels.affine, np.eye(4)) or not labels.header["sform_code"] + labels.header["qform_code"]:
        message = f"{mask_path} has no affine, but its image has: using it voxel by voxel, here and in similar files"
        warn_once("NIfTI labels without affine", message)
        return raw
    to = nibabel.io_orientation(volume.affine)
    reoriented = labels.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(labels.affine), to))
    if not _same_place(volume, reoriented):
        raise DataError(_AFFINES.format(path), mask_path)
    return _channels_first(np.asanyarray(reoriented.dataobj))


def _same_place(first: Any, second: Any) -> bool:
    """Whether two NIfTI images have the same size and affine, within a tenth of a voxel."""
    size = np.array(first.shape[:3])
    if tuple(size) != second.shape[:3]:
        return False
    corners = np.concatenate([np.indices((2, 2, 2)).reshape(3, -1) * (size - 1)[:, None], np.ones((1, 8))])
    try:
        back = np.linalg.inv(first.affine) @ second.affine @ corners
    except np.linalg.LinAlgError:
        return bool(np.allclose(first.affine, second.affine))
    return bool(np.abs(back - corners).max() < _SAME_PLACE)


def _shape(path: str, key: str) -> tuple[int, ...]:
    """Return the shape of a volume (channels, Z, Y, X); NIfTI and ``.npy`` files have it in their header."""
    if path.lower().endswith(NIFTI):
        try:
            shape = _nibabel().load(path).shape[::-1]
        except _damaged(path.lower()) as error:
            raise DataError(f"not a NIfTI file, or a damaged one: {error}", path) from error
        return (1, *shape) if len(shape) == 3 else tuple(shape)
    return read_volume(path, key).shape


def _holds(path: str, key: str) -> bool:
    content = _load(Path(path))
    return hasattr(content, "keys") and key in list(content)


class VolumeReader:
    """Reads volumes, and arrays of one slice, as the samples of `Volumes` with the same arguments."""

    def __init__(self, axis: Axis, **arguments: Any) -> None:
        self.axis, self._arguments = axis, {"axis": axis, **arguments}

    def __call__(self, source: str | Path | np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return the slices (H, W, C) of a volume, or a single array (H, W, C) windowed.

        Raises:
            DataError: When the file cannot be read.
        """
        if isinstance(source, np.ndarray):
            return self._volumes("")._windowed(np.atleast_3d(source))
        volumes = self._volumes(str(source))
        return [volumes[index].image for index in range(len(volumes))]

    def write(self, path: Path, slices: Sequence[np.ndarray], like: Path) -> None:
        """Write label maps (H, W) of all slices as a volume: NIfTI with the affine of ``like``, or ``.npy`` (Z, Y, X).

        Args:
            path: Output file without suffix.
            slices: Label maps in order.
            like: The predicted volume.
        """
        labels = np.stack(slices, _AXES[self.axis] - 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not like.name.lower().endswith(NIFTI):
            np.save(path.with_name(f"{path.name}.npy"), labels)
            return
        nibabel = _nibabel()
        nibabel.save(nibabel.Nifti1Image(labels.T, nibabel.load(like).affine), path.with_name(f"{path.name}.nii.gz"))

    def _volumes(self, path: str) -> Volumes:
        return Volumes([(Path(path).name, path, None)], LabelSpec(("all",)), **self._arguments)


class VolumeDataset(Volumes):
    """A folder of volumes and a folder of label volumes, as slices or whole.

    Args:
        images: Folder of volumes.
        masks: Folder of label files with the same names; None when there are none, or with ``with_seg``.
        classes: Class names; the position is the class id.
        palette: One RGB colour per class.
        ignore: Values of the label files that are ignored.
        offset: Subtracted from a value to give the class id; smaller values are ignored.
        suffix: Suffix of the image file names; all known ones when None.
        mask_suffix: Suffix of the label file names; the images' when None.
        data_root: Folder to which the other paths are relative.
        axis: Axis along which volumes are sliced.
        window: Lowest and highest intensity, mapped to 0 and 255, uint8; None keeps the file's values, float32.
        channels: Channels to read, counted from 0; all when None.
        context: Neighbouring slices on each side that become additional channels.
        whole: Whether samples are volumes instead of slices.
        image_key: Name of the image in files of several arrays.
        mask_key: Name of the labels in files of several arrays.
        with_seg: Whether the image files contain the labels, as last channel or by ``mask_key``.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        rng = np.random.default_rng(0)
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            np.save(folder / f"images/{number}.npy", rng.normal(size=(3, 5, 7)).astype(np.float32))
            np.save(folder / f"masks/{number}.npy", rng.integers(0, 2, (3, 5, 7), np.uint8))
        paths = {"data_root": str(folder), "images": "images", "masks": "masks"}
        return [paths, {**paths, "axis": "x", "window": [-1, 1], "context": 1}]

    def __init__(
        self,
        images: str | Path,
        masks: str | Path | None = None,
        classes: Sequence[str] = ("background", "foreground"),
        palette: Sequence[Color] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        offset: int = 0,
        suffix: str | None = None,
        mask_suffix: str | None = None,
        data_root: str | Path | None = None,
        axis: Axis = "z",
        window: Sequence[float] | None = None,
        channels: Sequence[NonNegativeInt] | None = None,
        context: NonNegativeInt = 0,
        whole: bool = False,
        image_key: str = "image",
        mask_key: str = "label",
        with_seg: bool = False,
    ) -> None:
        if masks is not None and with_seg:
            raise UsageError("give 'masks', or 'with_seg' if the image files contain the labels, not both")
        root = resolve(data_root)
        self.data_root = str(root)
        suffixes = (suffix,) if suffix else SUFFIXES
        found = find_files(resolve(root, images), suffixes)
        truths = {}
        if masks is not None:
            folder = resolve(root, masks)
            truths = find_files(folder, (mask_suffix,) if mask_suffix else suffixes)
            require_files(sorted(found), truths, f"without labels in {folder}")
        files = [(name, found[name], truths.get(name)) for name in sorted(found)]
        labels = LabelSpec(tuple(classes), tuple(palette or ()), tuple(ignore), offset)
        super().__init__(
            files,
            labels,
            axis=axis,
            window=window,
            channels=channels,
            context=context,
            whole=whole,
            image_key=image_key,
            mask_key=mask_key,
            with_seg=with_seg,
        )
