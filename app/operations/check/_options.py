"""The options that `check` tries at another value: what each value means, in a porter's words.

To try another option, add a row: the order of rows is the order in which they are tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """`did` has a clause for each value, or one with `{value}` in it; `apart` is an input on which
    it makes a difference.
    """

    name: str
    apart: str
    did: Mapping[Any, str] | str

    def clause(self, value: Any) -> str:
        """What a client with this value did."""
        if isinstance(self.did, str):
            return self.did.format(value=spelled(value))
        key = value if isinstance(value, str | bool | int) or value is None else "pairs"
        return self.did.get(key, self.did.get("other", "")).format(value=spelled(value))


def spelled(value: Any) -> str:
    """A value as it stands in JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(spelled, value))}]"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


OPTIONS: tuple[Option, ...] = (
    Option(
        "count_include_pad",
        "an input that is padded, where the padding is not all 0 in weight",
        {
            True: "Your averages count the padding in the divisor",
            False: "Your averages do not count the padding in the divisor",
        },
    ),
    Option(
        "ceil_mode",
        "an input whose size the stride does not divide",
        {
            True: "Your output size is rounded up, so that a last, partial window counts",
            False: "Your output size is rounded down, so that a last, partial window is left out",
        },
    ),
    Option(
        "padding",
        "an input with other values at its edges",
        {
            "same_upper": "Your padding is `same`, with the odd element at the end",
            "same_lower": "Your padding is `same`, with the odd element at the beginning",
            "valid": "You do not pad the input",
            "pairs": "Your padding is {value}, before and after exchanged",
        },
    ),
    Option(
        "stride",
        "an input with room for more than one window",
        {1: "Your stride is 1", "pairs": "Your stride is {value}, the size of the kernel"},
    ),
    Option(
        "running_var_estimator",
        "a batch with few values per channel",
        {
            "biased": "Your running variance is the biased estimate (divided by n)",
            "unbiased": "Your running variance is the unbiased estimate (divided by n - 1)",
        },
    ),
    Option(
        "momentum_weights",
        "a momentum other than 0.5",
        {
            "running": "Your momentum is the weight of the old running statistics",
            "batch": "Your momentum is the weight of the new batch's statistics",
        },
    ),
    Option(
        "momentum",
        "running statistics that are far from the batch's",
        {
            None: "Your running statistics are a cumulative average",
            "other": "Your momentum is {value}",
        },
    ),
    Option("eps", "a small variance", "Your eps is {value}"),
    Option(
        "training",
        "running statistics that differ from the batch's",
        {
            True: "You normalize with the statistics of the batch, as in training",
            False: "You normalize with the running statistics, as in evaluation",
        },
    ),
    Option(
        "index_base",
        "an input with several samples and channels",
        {
            "plane": "Your indices count within each channel's plane",
            "onnx": "Your indices count over the whole tensor in the order N, C, spatial",
            "tf": "Your indices count within a sample with the channel varying fastest",
        },
    ),
    Option(
        "tie",
        "windows with equal maxima",
        {
            "first": "Your gradient of equal maxima goes to the first of them",
            "split": "Your gradient of equal maxima is divided among them",
            "all": "Your gradient of equal maxima goes to each of them in full",
        },
    ),
    Option(
        "nan",
        "an input with NaN",
        {
            "propagate": "A NaN is the maximum of its window in your output",
            "ignore": "Your maxima ignore NaN",
        },
    ),
    Option(
        "divisor_override",
        "windows of another number of elements",
        {None: "Your averages are divided by the number of elements, not by `divisor_override`"},
    ),
    Option(
        "overhang_divisor",
        "ceil mode with a last window that reaches beyond the padding",
        {
            "kernel": "Your averages divide the last, partial window by the size of the kernel",
            "inside": "Your averages divide the last, partial window by its elements inside",
        },
    ),
    Option(
        "ceil_rule",
        "ceil mode with a last window that would start behind the input",
        {
            "keep": "You keep a last window that starts behind the end of the input",
            "drop": "You drop a last window that starts behind the end of the input",
        },
    ),
    Option(
        "storage_order",
        "an input of more than one row",
        {
            "column": "Your indices are column-major: the first spatial axis varies fastest",
            "row": "Your indices are row-major: the last spatial axis varies fastest",
        },
    ),
    Option(
        "index_space",
        "an output larger than the default",
        {
            "default": "You read the indices in the default output size and pad that at the end",
            "output": "You read the indices in the output size that was asked for",
        },
    ),
    Option(
        "empty_window",
        "padding that fills a whole window",
        {
            "zero": "A window of padding alone is 0 in your output",
            "lowest": "A window of padding alone is the lowest number in your output",
        },
    ),
    Option(
        "lp_abs",
        "an input with negative numbers",
        {
            True: "You take absolute values before raising to the power",
            False: "You raise to the power without taking absolute values",
        },
    ),
    Option(
        "lp_partial",
        "a last window that reaches beyond the padding",
        {
            "scaled": "You scale the sum of a partial window up to a full one",
            "sum": "You take the sum of a partial window as it is",
        },
    ),
    Option(
        "num_groups",
        "more channels",
        {
            1: "You normalize all channels of a sample as one group",
            "other": "You use {value} groups",
        },
    ),
    Option(
        "axis",
        "axes of other lengths",
        "You normalize from axis {value} on",
    ),
    Option(
        "keepdims",
        "any input",
        {
            True: "You keep the spatial axes, with length 1",
            False: "You drop the spatial axes",
        },
    ),
    Option(
        "weight_offset",
        "any weight",
        {1: "You multiply by 1 + weight", 0: "You multiply by the weight itself"},
    ),
    Option(
        "weight_layout",
        "a weight whose axes differ in length",
        {
            "hwio": "You read the weight as [*kernel, in, out]",
            "oihw": "You read the weight as [out, in, *kernel]",
        },
    ),
    Option(
        "layout",
        "axes of other lengths",
        {
            "channels_last": "You read the input with the channels last",
            "channels_first": "You read the input with the channels first",
        },
    ),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}
AFFECTS: Mapping[str, tuple[str, ...]] = {
    "tie": ("gradients",),
    "storage_order": ("indices",),
    "index_base": ("indices",),
    "momentum": ("running_stats",),
    "momentum_weights": ("running_stats",),
    "running_var_estimator": ("running_stats",),
}
"""The results that an option changes, where it does not change all."""
