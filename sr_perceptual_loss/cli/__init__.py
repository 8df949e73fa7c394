"""The command ``srpl``: one sub-command per file; heavy imports only inside the commands."""
