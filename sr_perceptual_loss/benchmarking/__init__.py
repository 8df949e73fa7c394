"""What the critics cost: reference formulations, measurements, tables. Never imported by the losses."""
