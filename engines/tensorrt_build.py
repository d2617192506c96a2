"""An ONNX file through NVIDIA's parser and compiler into an engine, ahead of time. Runs nothing; needs no GPU for RTX.

One form for both products: `tensorrt_rtx` (workstations; compiles on a machine without a GPU) and `tensorrt` (data
centres, versions 10 and 11; compiles for the GPU it finds). Both are imported on use only.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ichor.errors import IchorError

Product = Literal["tensorrt_rtx", "tensorrt"]


class NotCompiled(IchorError):
    """The parser or the compiler refused a model; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A compiled model.

    Attributes
    ----------
    plan : for ``Runtime.deserialize_cuda_engine`` of the same `product` and `version`.
    layers : of the network as parsed, before the compiler fuses them.
    """

    product: Product
    version: str
    plan: bytes
    layers: int


def build_engine(
    model: Path, product: Product = "tensorrt_rtx", *, workspace_bytes: int = 4 << 30, optimization_level: int = 3
) -> Engine:
    """Compile `model`, of fixed shapes, with the precisions that are written in it and no other.

    Parameters
    ----------
    workspace_bytes : most scratch memory that a kernel may ask for.
    optimization_level : 0 (compiles fast) to 5 (runs fast); data-centre TensorRT only.

    Raises
    ------
    NotCompiled
        The parser met an operator or a form that it does not know, or the compiler gave up.
    ImportError
        The product is not installed.
    """
    trt = importlib.import_module(product)
    log = _log(trt)
    builder = trt.Builder(log)
    # Types come from the model: version 10 has to be told, version 11 knows nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise NotCompiled(f"{product} {trt.__version__} does not parse {model.name}: {errors}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    # On by default: 10 bits of mantissa where the model says 23.
    config.clear_flag(trt.BuilderFlag.TF32)
    if product == "tensorrt":
        config.builder_optimization_level = optimization_level
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise NotCompiled(f"{product} {trt.__version__} does not compile {model.name}: {'; '.join(log.errors)}")
    return Engine(product=product, version=trt.__version__, plan=bytes(plan), layers=network.num_layers)


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors; the rest is not said."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
