"""A plugin of the content gateway that says hello."""
