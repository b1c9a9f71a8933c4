"""Webhooks: told once a job has ended, signed, tried again for a day."""
