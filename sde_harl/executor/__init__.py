"""Rank r's side of the wire: an executor computes its agents' part of the policies.

It needs numpy and psutil, not torch.
"""
