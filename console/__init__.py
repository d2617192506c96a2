"""The page, the REST API and /metrics over `ichor.history`. Knows studies, nothing of DICOM files."""
