"""The archive plugin: a ticket of URLs becomes one streamed ZIP."""
