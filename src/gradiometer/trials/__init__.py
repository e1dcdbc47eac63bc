"""Paired trainings of a recipe and its changed twins, and the verdict."""
