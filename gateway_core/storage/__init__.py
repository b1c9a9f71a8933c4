"""Where plugins keep bytes."""
