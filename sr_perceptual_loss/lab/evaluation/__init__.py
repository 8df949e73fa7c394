"""How well critics agree with people, and the metrics of SR papers."""
