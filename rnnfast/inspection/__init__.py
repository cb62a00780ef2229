"""Inspection of layers and models: gradients, also through time, units, word vectors."""

from rnnfast.inspection.checking import CheckedArray, GradientReport, gradient_check
from rnnfast.inspection.colours import to_html, to_terminal
from rnnfast.inspection.gates import gates
from rnnfast.inspection.gradients import Curve, gradient_cases, gradient_norms, plot_gradients
from rnnfast.inspection.units import (
    PROPERTIES,
    Unit,
    activations,
    digit,
    inside_brackets,
    inside_quotes,
    position_in_line,
    position_in_word,
    rank_units,
    upper_case,
)
from rnnfast.inspection.words import analogy, most_similar

__all__ = [
    "PROPERTIES",
    "CheckedArray",
    "Curve",
    "GradientReport",
    "Unit",
    "activations",
    "analogy",
    "digit",
    "gates",
    "gradient_cases",
    "gradient_check",
    "gradient_norms",
    "inside_brackets",
    "inside_quotes",
    "most_similar",
    "plot_gradients",
    "position_in_line",
    "position_in_word",
    "rank_units",
    "to_html",
    "to_terminal",
    "upper_case",
]
