"""Transformations that come with the gateway; each loads its library when it runs."""

from gateway_transform.converters.names import BUILT_IN

__all__ = ["BUILT_IN"]
