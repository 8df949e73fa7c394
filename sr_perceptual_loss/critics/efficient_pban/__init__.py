"""Efficient-PBAN: the published network and its inference form."""
