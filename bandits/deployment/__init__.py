"""Deployment rules: which models are live until the next maintenance window."""
