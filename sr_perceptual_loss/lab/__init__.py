"""Data sets with human scores, evaluation of critics, and training of critics; needs the extra ``lab``."""
