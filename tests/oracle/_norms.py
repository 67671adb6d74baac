"""A porter's normalisations: each set of values that shares its statistics, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.oracle._numbers import rounded
from tests.oracle._request import Array, Request

Results = dict[str, Array]
Plane = tuple[int, int]
"""One sample's channel."""


@dataclass(frozen=True, slots=True)
class Normal:
    """The values of one set normalised, and the gradient of the set's values."""

    hat: Array
    mean: Any
    var: Any
    inverse: Any
    back: Array | None
    seen: Array
    """The normalised values as the weight's gradient sees them."""


def normalise(
    values: Array, eps: float, request: Request, gradient: Array | None,
    given: tuple[Any, Any] | None = None, *, centred: bool = True,
) -> Normal:  # fmt: skip
    """`(x - mean) / sqrt(var + eps)` of one set; `gradient` is already multiplied by the weight.

    `given`: mean and variance that are not this set's own. `centred`: rms norm is not.
    """
    fault, count = request.fault, values.size
    unbiased = fault is not None and fault.startswith("variance-unbiased-output")
    mean: Any = values.mean() if centred else 0.0
    var: Any = np.square(values - mean).mean()
    if given is not None:
        mean, var = given
    used = var
    if fault == "variance-fast" and given is None:
        used = _fast_variance(values, request("dtype"))
        mean = float(rounded(np.array(mean), request("dtype")))
    if unbiased and given is None:
        used = var * count / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(used)
        if fault in ("eps-outside-root", "variance-unbiased-output:eps outside"):
            inverse = 1 / (root + eps)
            slope = -np.square(inverse) / (2 * root)
        elif fault == "eps-as-floor":
            inverse = 1 / np.sqrt(max(used, eps))
            slope = -0.5 * inverse**3 if used > eps else 0.0
        elif fault == "eps-missing":
            inverse = 1 / root
            slope = -0.5 * inverse**3
        else:
            inverse = 1 / np.sqrt(used + eps)
            slope = -0.5 * inverse**3
    if unbiased:
        slope *= count / (count - 1)
    hat = (values - mean) * inverse
    if gradient is None:
        return Normal(hat, mean, var, inverse, None, hat)
    behind, apart = inverse, values - mean
    if fault == "inverse-std-as-variance":
        behind = 1 / np.sqrt(inverse + eps)
        slope = -0.5 * behind**3
    back = gradient * behind
    held = given is not None or fault == "statistics-held-constant"
    if not held and centred and fault != "mean-term-missing":
        back = back - gradient.mean() * behind
    if not held and fault != "variance-term-missing":
        back = back + (gradient * apart).sum() * slope * 2 * apart / count
    return Normal(hat, mean, var, inverse, back, apart * behind)


def _fast_variance(values: Array, dtype: str) -> float:
    """E[x^2] - E[x]^2, added up one by one, each step rounded to the dtype."""

    def near(number: Any) -> Array:
        return rounded(np.array(number), dtype)

    total, squares = near(0.0), near(0.0)
    for value in values.ravel():
        total = near(total + value)
        squares = near(squares + near(value * value))
    mean, square = near(total / values.size), near(squares / values.size)
    return max(float(near(square - near(mean * mean))), 0.0)


def batch_norm(request: Request) -> Results:
    """One tensor per channel, or several of a list as one."""
    x = request.image()
    gradient = request.gradient(x.shape)
    samples, channels = range(x.shape[0]), range(x.shape[1])
    training = request("training")
    sets: list[list[Plane]] = [[(n, c) for n in samples] for c in channels]
    if request.fault == "statistics-per-sample":
        sets = [[(n, c)] for n in samples for c in channels]
    if request.fault == "statistics-of-all-channels":
        sets = [[(n, c) for c in channels] for n in samples]
    given = None
    if not training:
        given = request.numbers("running_mean"), request.numbers("running_var")
    found = over_planes(request, x, sets, gradient, given)
    if training:
        rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        found |= _statistics(request, rows)
    return found


def _statistics(request: Request, rows: Array) -> Results:
    """The batch's own statistics, and the running ones after this batch; rows are channels."""
    count = rows.shape[1]
    mean = rows.mean(1)
    var = np.square(rows - mean[:, None]).mean(1)
    unbiased = var * count / (count - 1) if count > 1 else np.full(mean.shape, np.nan)
    fresh = var if request("running_var_estimator") == "biased" else unbiased
    if request.fault == "running-std":
        fresh = np.sqrt(fresh)
    old_mean = request.vector("running_mean", len(mean), 0.0)
    old_var = request.vector("running_var", len(mean), 1.0)
    tracked, momentum = request("num_batches_tracked"), request("momentum")
    unbiased_output = request.fault == "variance-unbiased-output"
    times = {"running-not-updated": 0, "running-updated-twice": 2}.get(request.fault or "", 1)
    for update in range(times):
        if momentum is None:
            share = 1 / (tracked + update + 1)
        else:
            share = momentum if request("momentum_weights") == "batch" else 1 - momentum
        old_mean = (1 - share) * old_mean + share * mean
        old_var = (1 - share) * old_var + share * fresh
    return {
        "batch_stats.mean": mean,
        "batch_stats.var": var,
        "batch_stats.var_unbiased": unbiased,
        "batch_stats.inv_std": _inverse(
            request, unbiased if unbiased_output else var, float(request("eps"))
        ),
        "running_stats.mean": old_mean,
        "running_stats.var": old_var,
    }


def _inverse(request: Request, var: Array, eps: float) -> Array:
    """The factor by which the client multiplied."""
    with np.errstate(divide="ignore"):
        match request.fault:
            case "eps-outside-root":
                return 1 / (np.sqrt(var) + eps)
            case "eps-as-floor":
                return 1 / np.sqrt(np.maximum(var, eps))
            case "eps-missing":
                return 1 / np.sqrt(var)
            case _:
                return 1 / np.sqrt(var + eps)


def sync_batch_norm(request: Request) -> Results:
    """A list of tensors, normalised as one batch."""
    if request.fault == "replicas-not-synchronized":
        return _apart(request)
    inputs = [request.inward(np.asarray(x, request.work)) for x in request.body["inputs"]]
    grads = request.body.get("grad_outputs")
    body = {**request.body, "input": np.concatenate(inputs), "layout": "channels_first"}
    if grads is not None:
        body["grad_output"] = grads
        if not isinstance(grads, str):
            body["grad_output"] = np.concatenate([request.inward(np.asarray(g)) for g in grads])
    joint = Request("batch_norm2d", body, request.fault, request.work)
    body["eps"] = request("eps")
    found = batch_norm(joint)
    ends = np.cumsum([len(x) for x in inputs])[:-1]
    for whole, part in (("output", "outputs"), ("gradients.input", "gradients.inputs")):
        if whole in found:
            pieces = np.split(found.pop(whole), ends)
            found |= {f"{part}.{i}": request.outward(piece) for i, piece in enumerate(pieces)}
    if request.fault == "replica-gradients-averaged":
        for name in ("gradients.weight", "gradients.bias"):
            found[name] = found[name] / len(inputs)
    if request.fault == "replicas-unweighted":
        means = [np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).mean(1) for x in inputs]
        found["batch_stats.mean"] = np.mean(means, axis=0)
    return found


def _apart(request: Request) -> Results:
    """Each replica normalised alone."""
    grads, found = request.body.get("grad_outputs"), {}
    for number, x in enumerate(request.body["inputs"]):
        body = {**request.body, "input": x, "eps": request("eps")}
        if grads is not None:
            body["grad_output"] = grads if isinstance(grads, str) else grads[number]
        alone = batch_norm(Request("batch_norm2d", body, None, request.work))
        found[f"outputs.{number}"] = alone["output"]
        if grads is not None:
            found[f"gradients.inputs.{number}"] = alone["gradients.input"]
    return found


def group_norm(request: Request) -> Results:
    """Group norm, and instance norm as its case of one channel a group."""
    x = request.image()
    channels = x.shape[1]
    groups = channels if request.family == "instance_norm" else request("num_groups")
    if request.fault == "statistics-of-all-channels":
        groups = 1
    size = channels // groups
    members = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
    if request.fault == "groups-interleaved":
        members = [list(range(g, channels, groups)) for g in range(groups)]
    sets = [[(n, c) for c in group] for n in range(x.shape[0]) for group in members]
    return over_planes(request, x, sets, request.gradient(x.shape))


def over_planes(
    request: Request, x: Array, sets: Sequence[list[Plane]], gradient: Array | None,
    given: Any = None,
) -> Results:  # fmt: skip
    """Normalises sets of planes; weight and bias are per channel."""
    channels, eps = x.shape[1], float(request("eps"))
    weight, bias = (
        request.vector("weight", channels, 1.0),
        request.vector("bias", channels, 0.0),
    )
    scale, shift = (bias, weight) if request.fault == "affine-swapped" else (weight, bias)
    output, back = np.empty(x.shape, x.dtype), np.zeros(x.shape, x.dtype)
    scaled, shifted = np.zeros(channels), np.zeros(channels)
    for planes in sets:
        values = np.stack([x[p] for p in planes])
        of = [c for _, c in planes]
        spread = (-1, *[1] * (x.ndim - 2))
        grad = None
        if gradient is not None:
            grad = np.stack([gradient[p] for p in planes])
        pair = None if given is None else (given[0][of[0]], given[1][of[0]])
        weighted = None if grad is None else grad * scale[of].reshape(spread)
        done = normalise(values, eps, request, weighted, pair)
        y = done.hat * scale[of].reshape(spread) + shift[of].reshape(spread)
        for number, plane in enumerate(planes):
            output[plane] = y[number]
            if grad is None or done.back is None:
                continue
            back[plane] = done.back[number]
            scaled[plane[1]] += (grad[number] * done.seen[number]).sum()
            shifted[plane[1]] += grad[number].sum()
    found = {"output": request.outward(output)}
    if gradient is not None:
        swapped = request.fault == "affine-swapped"
        found["gradients.input"] = request.outward(back)
        found["gradients.weight"] = shifted if swapped else scaled
        found["gradients.bias"] = scaled if swapped else shifted
    return found


def layer_norm(request: Request) -> Results:
    """Layer and rms norm, over the last axes of the tensor as sent."""
    x = request.numbers("input")
    assert x is not None
    centred, axis = request.family == "layer_norm", request("axis")
    if axis is None:
        shape = request("normalized_shape")
        axis = -(len(shape) if isinstance(shape, list | tuple) else 1)
    lead = axis % x.ndim
    tail = x.shape[lead:]
    weight, bias = request.numbers("weight"), request.numbers("bias")
    scale = np.ones(tail) if weight is None else np.broadcast_to(weight, tail)
    shift = np.zeros(tail) if bias is None else np.broadcast_to(bias, tail)
    if not centred:
        scale = scale + request("weight_offset") * (weight is not None)
    if request.fault == "affine-swapped":
        scale, shift = shift, scale
    eps = request("eps")
    if eps is None:
        eps = np.finfo(np.float64 if request("dtype") == "float64" else np.float32).eps
    gradient = request.numbers("grad_output")
    if request.body.get("grad_output") == "ones" if gradient is None else False:
        gradient = np.ones(x.shape)
    output, back = np.empty(x.shape), np.zeros(x.shape)
    scaled, shifted = np.zeros(tail), np.zeros(tail)
    for row in np.ndindex(*x.shape[:lead]):
        weighted = None if gradient is None else gradient[row] * scale
        done = normalise(x[row], float(eps), request, weighted, centred=centred)
        output[row] = done.hat * scale + shift
        if gradient is not None and done.back is not None:
            back[row] = done.back
            scaled += gradient[row] * done.seen
            shifted += gradient[row]
    found = {"output": output}
    if gradient is not None:
        swapped = request.fault == "affine-swapped"
        found["gradients.input"] = back
        found["gradients.weight"] = shifted if swapped else scaled
        if centred:
            found["gradients.bias"] = scaled if swapped else shifted
    return found
