"""Operators shared by critics and losses."""
