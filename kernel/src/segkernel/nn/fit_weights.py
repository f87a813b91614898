"""Fitting weights of a model of another size, or for other classes, to a module before they are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

Shape = tuple[int, ...]


def fit_shapes(module: nn.Module, weights: dict[str, Tensor]) -> list[tuple[str, Shape, Shape]]:
    """Resample values whose shape differs from the module's, if a submodule can.

    The submodule that owns a value is asked first, by its method ``resize_weight(name, value, shape)``, then its
    parents. A first convolution is fitted to any number of image channels.

    Args:
        module: The target of the weights; not modified.
        weights: By the module's names; changed in place.

    Returns:
        The names, with the shape in ``weights`` and the shape in the module.
    """
    fitted = []
    for name, own in module.state_dict().items():
        given = weights.get(name)
        if given is None or given.shape == own.shape:
            continue
        value = _resize(module, name, given, own)
        if value is not None and value.shape == own.shape:
            weights[name] = value
            fitted.append((name, tuple(given.shape), tuple(own.shape)))
    return fitted


def match_classes(
    module: nn.Module, weights: dict[str, Tensor], given: Sequence[str] | None, own: Sequence[str] | None
) -> list[tuple[str, int, int]]:
    """Reorder the rows of last convolutions (``conv_seg``) so that they match the module's classes by name.

    Args:
        module: The target of the weights; it keeps its own rows for classes that are not in ``given``.
        weights: By the module's names; changed in place.
        given: The classes of the weights, in order; None changes nothing.
        own: The classes of the module.

    Returns:
        The names, with the number of rows matched and of classes.
    """
    if not given or not own or list(given) == list(own):
        return []
    pairs = [(own.index(name), index) for index, name in enumerate(given) if name in own]
    matched = []
    for name, value in module.state_dict().items():
        rows = weights.get(name)
        if rows is None or ".conv_seg." not in name or (len(value), len(rows)) != (len(own), len(given)):
            continue
        if value.shape[1:] == rows.shape[1:]:
            weights[name] = value.clone()
            for target, source in pairs:
                weights[name][target] = rows[source].to(value.dtype)
            matched.append((name, len(pairs), len(own)))
    return matched


def _resize(module: nn.Module, name: str, given: Tensor, own: Tensor) -> Tensor | None:
    """Return a value at the module's size, or None when it cannot be resized."""
    owner, path = module, name.split(".")
    owners = [(module, name)]
    for index, part in enumerate(path[:-1]):
        owner = getattr(owner, part)
        owners.append((owner, ".".join(path[index + 1 :])))
    for each, rest in reversed(owners):
        method = getattr(each, "resize_weight", None)
        if method is not None and (fitted := method(rest, given, tuple(own.shape))) is not None:
            return fitted
    same_kernel = given.ndim == own.ndim == 4 and (given.shape[0], *given.shape[2:]) == (own.shape[0], *own.shape[2:])
    if same_kernel and given.shape[1] in (1, 3):  # a first convolution: only images have so few channels
        return _other_channels(given, own.shape[1])
    return None


def _other_channels(kernel: Tensor, channels: int) -> Tensor:
    """Repeat a first convolution's channels, scaled so that the response to equal channels is unchanged."""
    copies = -(-channels // kernel.shape[1])
    return kernel.repeat(1, copies, 1, 1)[:, :channels] * (kernel.shape[1] / channels)
