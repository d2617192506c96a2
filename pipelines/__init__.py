"""From volumes to findings: one module per pipeline, and the worker that runs them. Knows no DICOM and no network."""
