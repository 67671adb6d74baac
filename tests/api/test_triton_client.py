"""The stock client of the Open Inference Protocol against a real server."""

import warnings
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from app.layers import LAYERS
from tests._serving import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tritonclient.http as sync_client
    import tritonclient.http.aio as aio_client
    from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as free:
        yield free


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    with sync_client.InferenceServerClient(f"127.0.0.1:{port}") as http:
        yield http


def sent(name: str, array: Any, datatype: str = "FP32", *, binary: bool = True) -> Any:
    tensor = sync_client.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def asked(*names: str, binary: bool = True) -> list[Any]:
    return [sync_client.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_health_metadata_config_and_statistics(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    for name in LAYERS:
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
        metadata = client.get_model_metadata(name)
        assert metadata["platform"] == "pytorch_eager"
        assert metadata["inputs"][0]["name"] in ("input", "inputs.0")
        assert client.get_model_config(name)["max_batch_size"] == 0
    before = client.get_inference_statistics("relu")["model_stats"][0]["inference_stats"]
    client.infer("relu", [sent("input", X)])
    after = client.get_inference_statistics("relu")["model_stats"][0]["inference_stats"]
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[part]["count"] == before[part]["count"] + 1
    assert not client.is_model_ready("nothing")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_a_pooling_with_its_gradient(client: Any, binary_in: bool, binary_out: bool) -> None:
    result = client.infer(
        "max_pool2d",
        [sent("input", X, binary=binary_in)],
        outputs=[*asked("output", "indices"), *asked("grad_input", binary=binary_out)],
        parameters={"kernel_size": "2,2", "stride": "[1, 2]"},
        request_id="abc",
    )
    leaf = torch.from_numpy(X).requires_grad_()
    output, indices = F.max_pool2d(leaf, 2, (1, 2), return_indices=True)
    output.sum().backward()
    assert leaf.grad is not None
    assert result.get_response()["id"] == "abc"
    assert np.array_equal(result.as_numpy("output"), output.detach().numpy())
    assert np.array_equal(result.as_numpy("indices"), indices.numpy())
    assert np.array_equal(result.as_numpy("grad_input"), leaf.grad.numpy())


def test_without_outputs_every_output_is_binary(client: Any) -> None:
    result = client.infer("layer_norm", [sent("input", X)], parameters={"axis": -1})
    names = [output["name"] for output in result.get_response()["outputs"]]
    assert names == ["output", "statistics_mean", "statistics_inv_std"]
    expected = F.layer_norm(torch.from_numpy(X), (4,)).numpy()
    np.testing.assert_allclose(result.as_numpy("output"), expected, rtol=1e-5, atol=1e-6)


def test_training_batch_norm_gives_its_statistics(client: Any) -> None:
    weight, bias = np.array([1, -2, 3], np.float32), np.array([0, 1, 2], np.float32)
    mean, var = np.array([0.5, 0, 1], np.float32), np.array([1, 2, 3], np.float32)
    grad = np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    tensors = (("input", X), ("weight", weight), ("bias", bias), ("running_mean", mean),
               ("running_var", var), ("grad_output", grad))  # fmt: skip
    result = client.infer(
        "batch_norm2d",
        [*(sent(name, array) for name, array in tensors),
         sent("num_batches_tracked", np.array([4]), "INT64")],
        outputs=asked("output", "grad_input", "grad_weight", "grad_bias", "running_mean",
                      "running_var", "num_batches_tracked", "batch_mean", "batch_var"),
        parameters={"training": True, "momentum": 0.3},
    )  # fmt: skip
    leaves = [torch.from_numpy(array.copy()).requires_grad_() for array in (X, weight, bias)]
    new_mean, new_var = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
    output = F.batch_norm(leaves[0], new_mean, new_var, leaves[1], leaves[2], True, 0.3)
    output.backward(torch.from_numpy(grad))
    batch = torch.from_numpy(X)
    expected: dict[str, Any] = {
        "output": output.detach(),
        "grad_input": leaves[0].grad,
        "grad_weight": leaves[1].grad,
        "grad_bias": leaves[2].grad,
        "running_mean": new_mean,
        "running_var": new_var,
        "batch_mean": batch.mean((0, 2, 3)),
        "batch_var": batch.var((0, 2, 3), correction=0),
    }  # fmt: skip
    for name, tensor in expected.items():
        np.testing.assert_allclose(result.as_numpy(name), tensor.numpy(), rtol=1e-5, atol=1e-5)
    assert result.as_numpy("num_batches_tracked").item() == 5


def test_bfloat16_float16_float64_and_integers(client: Any) -> None:
    values = np.array([[[1.5, -2, 0.25, 3]]], np.float32)
    half = client.infer("relu", [sent("input", values.astype(np.float16), "FP16")])
    assert half.as_numpy("output").dtype == np.float16
    assert half.as_numpy("output").tolist() == [[[1.5, 0, 0.25, 3]]]
    brain = client.infer("relu", [sent("input", values.astype(ml_dtypes.bfloat16), "BF16")])
    assert brain.get_output("output")["datatype"] == "BF16"
    assert brain.as_numpy("output").tolist() == [[[1.5, 0, 0.25, 3]]]
    double = client.infer("relu", [sent("input", values.astype(np.float64), "FP64")])
    assert double.as_numpy("output").dtype == np.float64
    whole = client.infer("max_pool1d", [sent("input", values.astype(np.int32), "INT32")],
                         parameters={"kernel_size": 2})  # fmt: skip
    assert whole.as_numpy("output").tolist() == [[[1, 3]]]


@pytest.mark.parametrize("binary", [True, False])
def test_not_finite_scalar_and_empty(client: Any, binary: bool) -> None:
    odd = np.array([np.nan, np.inf, -np.inf, -1], np.float32)
    result = client.infer("relu", [sent("input", odd, binary=binary)],
                          outputs=asked("output", binary=binary))  # fmt: skip
    assert np.array_equal(
        result.as_numpy("output").astype(np.float32),
        np.array([np.nan, np.inf, 0, 0], np.float32),
        True,
    )
    for array in (np.array(3, np.float32), np.zeros((2, 0), np.float32)):
        result = client.infer("relu", [sent("input", array, binary=binary)],
                              outputs=asked("output", binary=True))  # fmt: skip
        assert result.as_numpy("output").shape == array.shape


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client: Any, algorithm: str) -> None:
    result = client.infer("relu", [sent("input", X)], request_compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("output"), np.maximum(X, 0))


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "parameters", "said"),
    [
        ("max_pol2d", [sent("input", X)], None, None, "did you mean max_pool2d?"),
        ("relu", [sent("inptu", X)], None, None, "did you mean input?"),
        ("relu", [sent("input", X), sent("weight", X)], None, None, "no such input"),
        ("relu", [sent("input", X)], asked("outptu"), None, "did you mean output?"),
        ("relu", [sent("input", X)], asked("grad_weight"), None, "grad_weight"),
        ("max_pool2d", [sent("input", X)], None, None, "kernel_size"),
        ("max_pool2d", [sent("input", X)], None, {"kernel_size": 9}, "window"),
        ("max_pool2d", [sent("input", X)], None, {"kernel_size": 2, "strides": 1}, "stride?"),
        ("relu", [sent("input", X.astype(np.int8), "INT8")], None, None, "dtype"),
        ("group_norm", [sent("input", X), sent("weight", np.ones(3), "FP64")], None,
         {"num_groups": 1}, "float32"),
    ],
)  # fmt: skip
def test_errors_are_readable_in_the_exception(
    client: Any, model: str, inputs: Any, outputs: Any, parameters: Any, said: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, outputs=outputs, parameters=parameters)
    assert said in caught.value.message()
    str(caught.value)


def test_shared_memory_classes_and_bf16_in_json_are_refused_by_name(client: Any) -> None:
    shared = sync_client.InferInput("input", list(X.shape), "FP32")
    shared.set_shared_memory("region", X.nbytes)
    there = sync_client.InferRequestedOutput("output")
    there.set_shared_memory("region", X.nbytes)
    classes = sync_client.InferRequestedOutput("output", class_count=2)
    brain = sent("input", X.astype(ml_dtypes.bfloat16), "BF16")
    for inputs, outputs, said in (
        (shared, asked("output"), "shared_memory is not supported"),
        (sent("input", X), [there], "shared_memory is not supported"),
        (sent("input", X), [classes], "classification is not supported"),
        (brain, asked("output", binary=False), "BF16 is only available as binary"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("relu", [inputs], outputs=outputs)
        assert said in caught.value.message()


def test_what_is_not_served_says_so(client: Any) -> None:
    for call in (
        client.get_model_repository_index,
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.message()


@pytest.mark.anyio
async def test_the_asynchronous_client(port: int) -> None:
    async with aio_client.InferenceServerClient(f"127.0.0.1:{port}") as http:
        assert await http.is_server_ready()
        result = await http.infer(
            "batch_norm2d",
            [sent("input", X)],
            outputs=asked("output", "grad_weight"),
            parameters={"training": True},
        )
        expected = F.batch_norm(torch.from_numpy(X), None, None, training=True).numpy()
        np.testing.assert_allclose(result.as_numpy("output"), expected, rtol=1e-5, atol=1e-6)
        compressed = await http.infer(
            "relu", [sent("input", X)], request_compression_algorithm="gzip"
        )
        assert np.array_equal(compressed.as_numpy("output"), np.maximum(X, 0))
        with pytest.raises(InferenceServerException, match="did you mean"):
            await http.infer("relo", [sent("input", X)])
