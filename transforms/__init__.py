"""Meaning: DataFrame in, DataFrame out."""
