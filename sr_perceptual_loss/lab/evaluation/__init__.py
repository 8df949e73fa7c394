"""Judging critics against people, and SR results by metrics. Never imported by losses or integrations."""
