"""The one fold of the events into the state of a study: read by console, why and metrics. Changes nothing."""

from ichor.history.projection import Projection, Refusal, identity_of, study, withdrawn
from ichor.history.study import Study, as_json
from ichor.history.view import StudyView, fold
from ichor.history.why import Lookup, why, why_text

__all__ = [
    "Lookup",
    "Projection",
    "Refusal",
    "Study",
    "StudyView",
    "as_json",
    "fold",
    "identity_of",
    "study",
    "why",
    "why_text",
    "withdrawn",
]
