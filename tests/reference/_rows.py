"""Normalization of rows, the building block of every norm, with its gradients."""

from dataclasses import dataclass

import numpy as np

from tests.reference._windows import Array


@dataclass(frozen=True, slots=True)
class Normalised:
    """`(rows, values)` normalized row by row; statistics have shape `(rows)`."""

    mean: Array
    var: Array
    inv_std: Array
    unit: Array
    """x-hat: the centered values divided by their standard deviation."""


def normalised(rows: Array, eps: float) -> Normalised:
    """Normalize each row to mean 0 and variance 1; the mean is subtracted before squaring."""
    mean = rows.mean(-1)
    centred = rows - mean[:, None]
    # What remains of a large mean after rounding.
    rest = np.where(np.isfinite(mean), centred.mean(-1), 0)
    mean, centred = mean + rest, centred - rest[:, None]
    var = np.square(centred).mean(-1)
    inv_std = 1 / np.sqrt(var + eps)
    return Normalised(mean, var, inv_std, centred * inv_std[:, None])


def root_mean_square(rows: Array, eps: float) -> tuple[Array, Array]:
    """1 / sqrt(mean square + eps), `(rows)`, and the rows multiplied by it, `(rows, values)`.

    Rows are scaled first, so that no square overflows.
    """
    largest = np.abs(rows).max(-1)
    scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    scaled = rows / scale[:, None]
    root = np.sqrt(np.square(scaled).mean(-1) + eps / scale / scale)
    return 1 / root / scale, scaled / root[:, None]


def input_gradient(found: Normalised, gradient: Array) -> tuple[Array, Array]:
    """The gradient of the rows, given that of x-hat, and the magnitude of its terms."""
    unit, size = found.unit, np.abs(gradient)
    along = (gradient * unit).mean(-1, keepdims=True)
    mean = gradient.mean(-1, keepdims=True)
    inv_std = found.inv_std[:, None]
    value = inv_std * (gradient - mean - unit * along)
    doubt = (size * (np.abs(unit) + 1)).mean(-1, keepdims=True)
    return value, inv_std * (size + (np.abs(unit) + 1) * doubt)


def uncentred_gradient(inv_rms: Array, unit: Array, gradient: Array) -> tuple[Array, Array]:
    """Same as `input_gradient`, for rows divided by their root mean square."""
    along = (gradient * unit).mean(-1, keepdims=True)
    size = np.abs(gradient * unit).mean(-1, keepdims=True)
    scale = inv_rms[:, None]
    terms = scale * (np.abs(gradient) + np.abs(unit) * size)
    return scale * (gradient - unit * along), terms
