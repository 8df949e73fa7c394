"""Training critics on opinion scores. Never imported by losses or integrations."""
