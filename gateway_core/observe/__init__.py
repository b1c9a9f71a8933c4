"""Logs, metrics, events."""
