from .scoring import is_correct as is_correct
