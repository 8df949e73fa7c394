"""Parts that two or more critics share."""
