"""Placements: which process holds the policies and the environments, one module for each answer."""
