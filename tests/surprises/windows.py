"""Which windows are legal, and how large: rows 1 to 8, 23 and 38."""

from tests.surprises.checks import Answers, Refuses, Surprise, flat

PADDING_ALONE = {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 3}
MEAN_BY_EIGHT = {"input": [[[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]], "kernel_size": 3, "padding": 1}

ROWS = (
    Surprise(
        1,
        "`F.max_pool1d([[[1, 2]]], 2, stride=1, padding=1, dilation=3)` and its gradient",
        "A window that contains only padding gives -inf and an index outside the input. The "
        "backward pass then writes outside the gradient's memory: the process aborts or "
        "segfaults.",
        "Refuses it as `empty-window` before torch is called, also if ceil mode creates the "
        "window. With `empty_window`, it has a result and no gradient.",
        (
            # Without a gradient, so that a service that answered would fail here and not crash.
            Refuses("max_pool1d", {"input": [[[1, 2]]], **PADDING_ALONE},
                    "#/padding", "empty-window"),
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 2, "stride": 100,
                    "padding": 1, "dilation": 50, "ceil_mode": True}, "#/padding", "empty-window"),
            Refuses("max_pool3d", {"input": [[[[[1, 2]]]]], "kernel_size": [1, 1, 2], "stride": 1,
                    "padding": [0, 0, 1], "dilation": 3}, "#/padding", "empty-window"),
            Answers("max_pool1d", {"input": [[[1, 2]]], **PADDING_ALONE, "dilation": 2,
                    "return_indices": True, "grad_output": "ones"},
                    {"output": [[[2, 1]]], "indices": [[[1, 0]]], "gradients.input": [[[1, 1]]]}),
        ),
    ),
    Surprise(
        2,
        "The same call with two channels and `return_indices=True`",
        "The index is 2 in a plane of 2 elements: it points into the next channel's plane.",
        "Refuses it as `empty-window`, or returns -1 with `empty_window`; no other index points "
        "outside its own plane.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2], [3, 4]]], **PADDING_ALONE,
                    "return_indices": True}, "#/padding", "empty-window"),
        ),
    ),
    Surprise(
        3,
        "`F.adaptive_avg_pool1d(x, 2**31)`; `F.max_unpool2d(x, indices, 1, stride=10**6)`",
        "Allocates gigabytes, or the system kills the process.",
        "Refuses lengths and strides above their limits, and an output above `max_output_bytes` "
        "as `output-too-large`, before it allocates memory.",
        (
            Refuses("adaptive_avg_pool1d", {"input": [[[1, 2]]], "output_size": 2**31},
                    "#/output_size"),
            Refuses("adaptive_avg_pool1d", {"input": [[[1, 2]]], "output_size": 2**31 - 1},
                    None, "output-too-large"),
            Refuses("max_unpool2d", {"input": [[[[1, 2]]]], "indices": [[[[0, 1]]]],
                    "kernel_size": 1, "stride": 10**6}, "#/stride"),
            Refuses("max_unpool2d", {"input": flat((1, 1, 16, 16), [0] * 256), "kernel_size": 1,
                    "indices": flat((1, 1, 16, 16), range(256)), "stride": 4096},
                    None, "output-too-large"),
        ),
    ),
    Surprise(
        4,
        "`F.max_pool1d(x, 2**30, padding=2**29)`",
        "Accepted: loops over the padding for seconds, however small x is.",
        "Refuses a kernel above `max_extent`, and work estimated at more than `max_cost_ms` as "
        "`cost-limit`.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 2**30, "padding": 2**29},
                    "#/kernel_size"),
            Refuses("max_pool2d", {"input": flat((1, 1, 64, 64), [0] * 4096), "kernel_size": 4096,
                    "stride": 1, "padding": 2048}, None, "cost-limit"),
        ),
    ),
    Surprise(
        5,
        "`F.max_pool1d` with a `kernel_size`, `stride` or `dilation` of 2^31 or more",
        "Works without a gradient, but fails with a gradient or with indices.",
        "Refuses all three above `max_extent`, with or without a gradient.",
        tuple(
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 1, name: 2**31, **more},
                    f"#/{name}")
            for name in ("kernel_size", "stride", "dilation")
            for more in ({}, {"grad_output": "ones"})
        ),
    ),
    Surprise(
        6,
        "`F.avg_pool3d(x, 3, padding=1)`, x of 2x2x2",
        "Raises, although the kernel fits into the padded input; `avg_pool2d` and `max_pool3d` "
        "accept the same arguments.",
        "Computes it: all pooling layers accept the same windows.",
        (
            Answers("avg_pool3d", {**MEAN_BY_EIGHT, "grad_output": "ones"},
                    {"output": [[[[[36 / 27]]]]], "gradients.input": [[[[[1 / 27] * 2] * 2] * 2]]},
                    within=1e-6),
            Answers("avg_pool3d", {**MEAN_BY_EIGHT, "count_include_pad": False},
                    {"output": [[[[[4.5]]]]]}, within=1e-6),
            Answers("max_pool3d", MEAN_BY_EIGHT, {"output": [[[[[8]]]]]}),
        ),
    ),
    Surprise(
        7,
        "Pooling with `ceil_mode=True`",
        "Drops a last window that would start after the end of the input, contrary to the "
        "documented formula: for 9, 4 and 5 elements with (kernel, stride, padding) of (4, 4, 2), "
        "(1, 2, 0) and (2, 2, 1), it gives 3, 2 and 3 windows instead of 4, 3 and 4.",
        "Gives the same windows as torch; `explain` and `/shape` report the dropped window.",
        tuple(
            Answers("max_pool1d", {"input": [[list(range(1, n + 1))]], "kernel_size": k,
                    "stride": s, "padding": p, "ceil_mode": True, "explain": True},
                    {"output": [[output]], "explanation.axes.0.dropped_window": True})
            for n, k, s, p, output in (
                (9, 4, 4, 2, [2, 6, 9]), (4, 1, 2, 0, [1, 3]), (5, 2, 2, 1, [1, 3, 5])
            )
        ),
    ),
    Surprise(
        8,
        "`F.max_pool1d(x, 9, stride=8, ceil_mode=True)`, x of 4 elements",
        "Accepted, although the kernel is longer than the input: gives one partial window.",
        "The same; an average divides by the 4 elements in the window. Refused without ceil mode.",
        (
            Answers("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8,
                    "ceil_mode": True}, {"output": [[[4]]]}),
            Answers("avg_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8,
                    "ceil_mode": True}, {"output": [[[2.5]]]}),
            Refuses("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 9, "stride": 8},
                    "#/kernel_size"),
        ),
    ),
    Surprise(
        23,
        "`nn.MaxPool2d(-3)`; `stride=None`; `stride=()`",
        "The constructor accepts all three; -3 fails in the first call, with a message about "
        "padding.",
        "Validates each request as a whole; there are no constructors. A null stride means the "
        "kernel size; an empty list is refused.",
        (
            Refuses("max_pool2d", {"input": [[[[1, 2]]]], "kernel_size": -3}, "#/kernel_size"),
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 1, "stride": []},
                    "#/stride"),
            Answers("max_pool1d", {"input": [[[1, 2, 3, 4]]], "kernel_size": 2, "stride": None},
                    {"output": [[[2, 4]]]}),
        ),
    ),
    Surprise(
        38,
        "`F.max_pool1d(F.pad(x, (1, 0), value=-inf), 2, return_indices=True)`",
        "Asymmetric padding must be added by hand, and the indices then refer to the padded input.",
        "Supports asymmetric padding; the indices refer to the input as it was sent.",
        (
            Answers("max_pool1d", {"input": [[[5, 1, 7]]], "kernel_size": 2, "padding": [[1, 0]],
                    "return_indices": True, "grad_output": "ones"},
                    {"output": [[[5, 7]]], "indices": [[[0, 2]]],
                     "gradients.input": [[[1, 0, 1]]]}),
            Answers("max_pool2d", {"input": [[[[1, 2], [9, 4]]]], "kernel_size": 2, "stride": 1,
                    "padding": [[1, 0], [0, 1]], "return_indices": True, "grad_output": "ones"},
                    {"output": [[[[2, 2], [9, 4]]]], "indices": [[[[1, 1], [2, 3]]]],
                     "gradients.input": [[[[0, 2], [1, 1]]]]}),
        ),
    ),
)  # fmt: skip
