"""Benchmarks of the field, from files on this disk: their questions, their rules, and a strict rule beside them.

Files, prompts, rules and averages are those of lmms-eval's default tasks (`table` has one row per benchmark); each
docstring says where ours differ. This package knows nothing about models.
"""
