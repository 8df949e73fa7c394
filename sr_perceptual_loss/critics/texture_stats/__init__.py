"""Texture statistics: a critic without weights."""
