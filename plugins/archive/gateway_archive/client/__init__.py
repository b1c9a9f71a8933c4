"""``gateway archive``: makes a ticket, downloads it over connections that break, and checks it."""
