"""Findings to DICOM objects to destinations. Computes nothing, and decides nothing about what a finding means."""
