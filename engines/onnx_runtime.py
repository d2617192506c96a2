"""ONNX Runtime on the CPU at float32: the reference that other runtimes are held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from engines.runtime import Arrays, file_sha256

_NOT_LOADED = (
    state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoModel, state.NoSuchFile,
    state.NotImplemented, state.RuntimeException,
)  # fmt: skip
"""What loading can raise: they have no base of their own."""


class OnnxRuntime:
    """A `Runtime`. Loading reads protobuf only; no code comes out of a model file.

    Attributes
    ----------
    output_shapes : as the file declares them, as is `input_shapes`: what is not fixed is a name or None.

    Raises
    ------
    RuntimeError
        The file is no model that ONNX Runtime can load.
    """

    precision = "f32"

    def __init__(self, model: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take the cores from the processes that receive and send.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self.sha256 = file_sha256(model)
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except _NOT_LOADED as error:
            raise RuntimeError(f"not loaded by {self.name}: {type(error).__name__}") from error
        self.input_shapes = {node.name: tuple(node.shape) for node in self._session.get_inputs()}
        self.output_shapes = {node.name: tuple(node.shape) for node in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        feed = {name: np.ascontiguousarray(array, np.float32) for name, array in inputs.items()}
        outputs = list(self.output_shapes)
        return dict(zip(outputs, self._session.run(outputs, feed), strict=True))
