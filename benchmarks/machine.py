"""Describes this machine and measures its rate of matrix products in each precision. Runs in the environment `build`.

python -m benchmarks.machine RATES    prints the rates as JSON
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
# Rows x inner x columns: near the products of a large batch in DistilBERT, and square ones.
_SHAPES = ((1024, 768, 3072), (2048, 768, 768), (1024, 1024, 1024), (2048, 2048, 2048))
_SECONDS = 0.5

_clock = time.perf_counter


def describe() -> dict[str, Any]:
    """Processor, cores that may be used, memory, kernel, Python."""
    flags, name = "", platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() == "flags":
            flags = value
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": name,
        "extensions": [flag for flag in wanted if flag in flags.split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def rates() -> dict[str, Any]:
    """The best rate in each precision, in operations a second (a multiply-add counts as two), and what reached it."""
    found: dict[str, list[tuple[float, str]]] = {"fp32": [], "bf16": [], "int8": []}
    failures = []
    for precision, engine, make in _CANDIDATES:
        for shape in _SHAPES:
            try:
                run = make(*shape)
                rate = 2.0 * shape[0] * shape[1] * shape[2] / _best_time(run)
            except Exception as error:
                failures.append(f"{engine} {precision}: {type(error).__name__}: {str(error)[:120]}")
                break
            found[precision].append((rate, f"{engine} {'x'.join(map(str, shape))}"))
    best = {precision: max(rates) for precision, rates in found.items() if rates}
    return {
        "rates": {precision: {"operations_per_second": rate, "by": by} for precision, (rate, by) in best.items()},
        "all": {precision: [[by, rate] for rate, by in rates] for precision, rates in found.items()},
        "failures": failures,
    }


def _best_time(run: Callable[[], Any]) -> float:
    run()
    run()
    best, end = float("inf"), _clock() + _SECONDS
    while (start := _clock()) < end:
        run()
        best = min(best, _clock() - start)
    return best


def _torch(kind: str) -> Callable[..., Callable[[], Any]]:
    def make(rows: int, inner: int, columns: int) -> Callable[[], Any]:
        import torch

        torch.set_num_threads(THREADS)
        if kind == "int8":
            left = torch.randint(-127, 127, (rows, inner), dtype=torch.int8)
            right = torch.randint(-127, 127, (inner, columns), dtype=torch.int8)
            return lambda: torch._int_mm(left, right)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        return lambda: torch.mm(left, right)

    return make


def _onnxruntime(kind: str) -> Callable[..., Callable[[], Any]]:
    def make(rows: int, inner: int, columns: int) -> Callable[[], Any]:
        import numpy as np
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        rng = np.random.default_rng(0)
        if kind == "fp32":
            x, w = rng.random((rows, inner), np.float32), rng.random((inner, columns), np.float32)
            node, element, out = helper.make_node("MatMul", ["x", "w"], ["y"]), TensorProto.FLOAT, TensorProto.FLOAT
        else:
            x = rng.integers(0, 255, (rows, inner), np.uint8)
            w = rng.integers(-127, 127, (inner, columns)).astype(np.int8)
            node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
            element, out = TensorProto.UINT8, TensorProto.INT32
        graph = helper.make_graph(
            [node],
            "product",
            [helper.make_tensor_value_info("x", element, x.shape)],
            [helper.make_tensor_value_info("y", out, (rows, columns))],
            [numpy_helper.from_array(w, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": x})

    return make


def _openvino(precision: str) -> Callable[..., Callable[[], Any]]:
    def make(rows: int, inner: int, columns: int) -> Callable[[], Any]:
        import numpy as np
        import openvino
        from openvino import opset13

        rng = np.random.default_rng(0)
        x = opset13.parameter([rows, inner], np.float32)
        product = opset13.matmul(x, opset13.constant(rng.random((inner, columns), np.float32)), False, False)
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS}
        request = openvino.compile_model(openvino.Model([product], [x]), "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(rng.random((rows, inner), np.float32)))
        return request.infer

    return make


_CANDIDATES = (
    ("fp32", "PyTorch", _torch("fp32")),
    ("fp32", "ONNX Runtime", _onnxruntime("fp32")),
    ("fp32", "OpenVINO", _openvino("f32")),
    ("bf16", "PyTorch", _torch("bf16")),
    ("bf16", "OpenVINO", _openvino("bf16")),
    ("int8", "PyTorch", _torch("int8")),
    ("int8", "ONNX Runtime", _onnxruntime("int8")),
)

if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    print(json.dumps(rates()))
    sys.stdout.flush()
    os._exit(0)
