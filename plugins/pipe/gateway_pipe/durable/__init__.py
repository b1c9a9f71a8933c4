"""Durable calls: kept in the database until the node has answered, remembered by the node so that they run once."""
