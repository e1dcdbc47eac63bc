"""Remedies: a recipe in, a changed recipe out, with the code a user would write."""
