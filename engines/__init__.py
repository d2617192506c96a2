"""Numbers in, numbers out: networks, training, export, runtimes and their acceptance gate. Knows no DICOM.

Importing this package first switches off what the runtimes would report to their makers: a machine beside a scanner
looks nothing up, connects to nobody and keeps no identity for others.
"""

import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO falls back to its own stub where this module cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
