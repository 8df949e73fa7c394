"""Operators that several critics or losses share."""
