"""Engines: numbers in, numbers out. Networks, training, export and runtimes; knows no DICOM."""
