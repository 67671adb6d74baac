"""Which windows are legal, and how large: rows 1 to 8, 23 and 38."""

from tests.surprises.checks import Answers, Refuses, Surprise, flat

PADDING_ALONE = {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 3}
MEAN_BY_EIGHT = {"input": [[[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]], "kernel_size": 3, "padding": 1}

ROWS = (
    Surprise(
        1,
        "F.max_pool1d([[[1, 2]]], 2, stride=1, padding=1, dilation=3), and its gradient",
        "A window that holds padding alone gives -inf and an index outside the input; backward "
        "then writes outside the gradient's memory: abort or segmentation fault.",
        "Refuses it as `empty-window` before torch is called, also where ceil mode makes it.",
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
        "The same with two channels and return_indices=True",
        "The index, 2 in a plane of 2, points into the next channel's plane.",
        "Refuses it as `empty-window`: an index always lies in its own plane.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2], [3, 4]]], **PADDING_ALONE,
                    "return_indices": True}, "#/padding", "empty-window"),
        ),
    ),
    Surprise(
        3,
        "F.adaptive_avg_pool1d(x, 2**31); F.max_unpool2d(x, indices, 1, stride=10**6)",
        "Allocates gigabytes, or is killed by the system.",
        "Refuses lengths and strides over their limits, and with `output-too-large` an output over "
        "`max_output_bytes`, before it allocates.",
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
        "F.max_pool1d(x, 2**30, padding=2**29)",
        "Accepted: it loops over the padding for seconds, whatever the size of x.",
        "Refuses a kernel over `max_extent`, and with `cost-limit` what would run longer than "
        "`max_cost_ms`.",
        (
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 2**30, "padding": 2**29},
                    "#/kernel_size"),
            Refuses("max_pool2d", {"input": flat((1, 1, 64, 64), [0] * 4096), "kernel_size": 4096,
                    "stride": 1, "padding": 2048}, None, "cost-limit"),
        ),
    ),
    Surprise(
        5,
        "F.max_pool1d(x, kernel_size, stride or dilation of 2**31 and more)",
        "Works without a gradient, fails with one or with indices.",
        "Refuses all three over `max_extent`, with a gradient and without.",
        tuple(
            Refuses("max_pool1d", {"input": [[[1, 2]]], "kernel_size": 1, name: 2**31, **more},
                    f"#/{name}")
            for name in ("kernel_size", "stride", "dilation")
            for more in ({}, {"grad_output": "ones"})
        ),
    ),
    Surprise(
        6,
        "F.avg_pool3d(x of 2x2x2, 3, padding=1)",
        "Raises, although padding covers the kernel; avg_pool2d and max_pool3d take the same.",
        "Answers: the same windows are legal in every pooling layer.",
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
        "Pooling with ceil_mode=True, against the formula in its documentation",
        "Gives 3, 2 and 3 windows where the formula gives 4, 3 and 4: it drops a last window that "
        "would start behind the input.",
        "Gives what torch runs; `explain` and `/shape` name the dropped window.",
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
        "F.max_pool1d(x of 4, 9, stride=8, ceil_mode=True)",
        "Accepted, though the kernel is longer than the input: one partial window.",
        "The same, and an average divides by the 4 elements that are there; refused without "
        "ceil mode.",
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
        "nn.MaxPool2d(-3); stride=None; stride=()",
        "The constructor takes all three; -3 fails at the first call, with a message on padding.",
        "Has no constructors: each request is checked as a whole. A null stride is the kernel "
        "size; an empty list is refused.",
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
        "F.max_pool1d(F.pad(x, (1, 0), value=-inf), 2, return_indices=True)",
        "Asymmetric padding by hand: the indices count in the padded input.",
        "Takes asymmetric padding; indices count in the input as it was sent.",
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
