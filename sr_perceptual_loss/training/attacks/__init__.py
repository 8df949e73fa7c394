"""What raises a score without making pictures better: ascent on pixels, and small SR networks that learn to."""
