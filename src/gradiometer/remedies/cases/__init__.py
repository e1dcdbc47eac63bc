"""Sick recipes that remedies cure."""
