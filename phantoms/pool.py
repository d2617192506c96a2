"""The generator of synthetic heads as a number: whoever keeps heads writes it beside them. Keeps none itself."""

from __future__ import annotations

# Counted up whenever a seed gives another head, so that heads of two generators are never mixed.
GENERATOR = 3
