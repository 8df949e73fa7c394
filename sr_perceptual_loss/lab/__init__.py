"""Data readers, evaluation and training of critics; imported by nothing but `cli/`."""
