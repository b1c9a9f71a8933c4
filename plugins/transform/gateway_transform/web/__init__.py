"""The HTTP side: the routes of Circe and ours."""
