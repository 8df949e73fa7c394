"""The only room that imports training frameworks; one sub-package or file per host."""
