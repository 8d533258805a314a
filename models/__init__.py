"""Fitting: search, cross-validation, metrics, registry."""
